"""Layouts of files in which data sets are found, beside tables, JSON and folders of one file an example.

- `plugin`: recognises a layout, or takes the one that `format` names; `topwork list formats`
- `layout`: what a layout is: its name, how it is recognised, how it is read
- `texts`: CoNLL and CoNLL-U, parallel texts, chats, exports of doccano and label-studio
- `maps`: images beside masks or depth maps
- `boxes`: YOLO, tables with a box in every line
- `speech`: LJSpeech, Common Voice, LibriSpeech, Speech Commands, manifests of NeMo
- `folders`: what these share: files by name, cells that name files
"""
