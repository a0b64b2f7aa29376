"""Shared code of the image tasks.

- `image_task`: `ImageTask`, the base class.
- `images`: images from whatever a column holds.
- `maps`: masks and depth maps from whatever a column holds.
- `frames`: annotations of images that their files store turned.
- `statistics`: what is learned from training images; `preview`: rows before any model exists.
- `headers`: sizes of images and maps from the headers of their files.
- `inputs`: `ImageInputs`, images as a network takes them: image processor, sizes, costs, patches.
- `augmentation`: random changes of training images, with their boxes or maps.
- `boxes`: objects of a row: reading, checking, targets, drawing.
- `batches`: stacking and padding of images of several sizes.
- `divisors`: set losses divide by the boxes or masks of their own batch.
- `dense_heads`: task heads with an output for every pixel, on the feature maps of any backbone.
- `coco_metric`: average precision as COCO defines it.
"""
