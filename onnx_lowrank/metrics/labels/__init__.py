"""Labels that lie beside the images, by convention.

| file                                           | of                                          | metric |
|------------------------------------------------|---------------------------------------------|--------|
| ``annotations.json`` in the folder of images   | COCO's boxes                                | `map`  |
| ``masks/NAME.png`` beside the folder of images | a class for every pixel, 255 for none       | `miou` |
| ``texts.tsv`` or ``texts.csv`` in the folder   | a name and a text in each line              | `cer`  |

They lie beside an archive instead of in a folder. The option ``labels=PATH`` names other places.
"""
