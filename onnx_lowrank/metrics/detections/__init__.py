"""Detectors: the boxes in their outputs.

| file        | what it does                                                        |
|-------------|---------------------------------------------------------------------|
| `boxes`     | the objects in one image                                            |
| `layouts`   | recognizes where boxes, scores and classes are                      |
| `cells`     | the squares that boxes of a head are relative to                    |
| `read`      | reads them, and leaves out those that overlap a better one          |
| `text_maps` | boxes around the regions of a map                                   |
"""
