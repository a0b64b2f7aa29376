"""Tasks: one module or package for each task. Each is a plugin by itself: the declarations below, by constant.

A declaration is all that listing and checking recipes of other tasks import.

Each task has a module or package of its name: `text_classification`, `token_classification`, `question_answering`,
`fill_mask`, `text_generation`, `summarization`, `translation` (both on `sequence_to_sequence`), `image_classification`,
`object_detection`, `image_segmentation`, `depth_estimation`, `audio_classification`, `automatic_speech_recognition`.
Shared code lies in these folders:

- `_text`: tokenizers, windows, words, generation, metrics of texts
- `_vision`: images, augmentation, boxes, dense heads, COCO's metric
- `_audio`: audio front end and clips
- `_classification`: labels, loss and metric of the three classifications

`detection_plugin` declares object-detection and reads COCO and Pascal VOC files for all tasks.
"""

from topwork import Declaration

AUDIO_CLASSIFICATION = Declaration(
    "audio-classification",
    "topwork_tasks.audio_classification:AudioClassification",
    "Put labels on clips of sound: one, or several of them.",
    "task",
)
AUTOMATIC_SPEECH_RECOGNITION = Declaration(
    "automatic-speech-recognition",
    "topwork_tasks.automatic_speech_recognition:SpeechRecognition",
    "Write down the words of a clip, by CTC or by a decoder. `bad_input.md` says what becomes of bad rows.",
    "task",
)
DEPTH_ESTIMATION = Declaration(
    "depth-estimation",
    "topwork_tasks.depth_estimation:DepthEstimation",
    "Estimate the distance of every pixel. `bad_input.md` says what becomes of bad rows.",
    "task",
)
FILL_MASK = Declaration(
    "fill-mask", "topwork_tasks.fill_mask:FillMask", "Say what stands behind the masked tokens of a text.", "task"
)
IMAGE_CLASSIFICATION = Declaration(
    "image-classification", "topwork_tasks.image_classification:ImageClassification", "Put labels on images.", "task"
)
IMAGE_SEGMENTATION = Declaration(
    "image-segmentation",
    "topwork_tasks.image_segmentation:ImageSegmentation",
    "Label the pixels of images. `bad_input.md` says what becomes of bad rows.",
    "task",
)
QUESTION_ANSWERING = Declaration(
    "question-answering",
    "topwork_tasks.question_answering:QuestionAnswering",
    "Find the span of a context that answers a question, or say that there is none.",
    "task",
)
SUMMARIZATION = Declaration(
    "summarization", "topwork_tasks.summarization:Summarization", "Write the summary of a document.", "task"
)
TEXT_CLASSIFICATION = Declaration(
    "text-classification",
    "topwork_tasks.text_classification:TextClassification",
    "Put labels on texts and pairs of texts, or a number (regression).",
    "task",
)
TEXT_GENERATION = Declaration(
    "text-generation",
    "topwork_tasks.text_generation:TextGeneration",
    "Continue texts, complete prompts, answer messages.",
    "task",
)
TOKEN_CLASSIFICATION = Declaration(
    "token-classification",
    "topwork_tasks.token_classification:TokenClassification",
    "Put a tag on every word, and find entities and other spans.",
    "task",
)
TRANSLATION = Declaration(
    "translation", "topwork_tasks.translation:Translation", "Write a text in another language.", "task"
)
