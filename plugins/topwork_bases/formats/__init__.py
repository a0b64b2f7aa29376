"""Layouts of files in which data sets are found, beside tables, JSON and folders of one file an example.

- `plugin`: recognises a layout, or takes the one that `format` names; `topwork list formats`
- `layout`: what a layout is: its name, how it is recognised, how it is read
- `words`: CoNLL and CoNLL-U, tables with a word in every row
- `texts`: parallel texts
- `chats`: ShareGPT, Alpaca
- `exports`: doccano, label-studio
- `json_records`: what chats, exports and manifests share: records with their lines
- `maps`: images beside masks or depth maps
- `yolo`: YOLO
- `boxes`: tables with a box in every line
- `speech`: LJSpeech, Common Voice, LibriSpeech, Speech Commands, manifests of NeMo
- `folders`: what these share: files by name, cells that name files
"""
