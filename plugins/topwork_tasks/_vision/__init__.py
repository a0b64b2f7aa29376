"""Shared code of the image tasks.

- `images`: images and maps of numbers from whatever a column holds; tensors back to images.
- `headers`: sizes of images and maps from the headers of their files.
- `inputs`: `ImageInputs`, images as a network takes them: image processor, sizes, costs, patches.
- `augmentation`: random changes of training images, with their boxes or maps.
- `boxes`: objects of a row: reading, checking, targets, drawing.
- `batches`: stacking and padding of images of several sizes.
- `dense_heads`: task heads with an output for every pixel, on the feature maps of any backbone.
- `coco_metric`: average precision as COCO defines it.
"""
