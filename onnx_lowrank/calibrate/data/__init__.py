"""Sample inputs of any kind, read by index in the form that the model takes.

| file         | what it does                                                                              |
|--------------|-------------------------------------------------------------------------------------------|
| `samples`    | opens data of any kind as `Samples`; reads them batch by batch                            |
| `sources`    | `SampleSource`, the samples of one model input: rows of an array, or image files          |
| `arrays`     | checks arrays against the model's inputs                                                  |
| `archives`   | lists and reads image files in folders, zip and tar archives                              |
| `labels`     | the classes of images, by folder, file or names that are given                            |
| `preprocess` | decodes, resizes and scales images                                                        |
| `synthetic`  | synthesizes images with the statistics of photographs, for conversions without data       |
| `colours`    | fits the colours of synthetic images to the network's first BatchNormalization            |
| `prefetch`   | reads the next batch in the background                                                    |
"""
