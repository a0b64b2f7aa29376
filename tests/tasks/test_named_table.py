"""The table of named families is whole: every task, and every family that has to work."""

from __future__ import annotations

from named import table

FAMILIES = """
BERT, DistilBERT, RoBERTa, DeBERTa-v2, ModernBERT, BertGeneration, GPT, GPT-2, DistilGPT2, Llama, Qwen3, BART, T5,
mBART, Marian, Wav2Vec2, HuBERT, WavLM, AST, Whisper, ViT, DeiT, ConvNeXT, ConvNeXTV2, CvT, LeViT, Swin, DETR,
Deformable DETR, RT-DETR, YOLOS, Mask2Former, SegFormer, UperNet, GLPN, DPT, Depth Anything, timm ViT, timm ConvNeXT,
timm Swin, timm ResNet
"""


def test_every_family_that_has_to_work_stands_in_it() -> None:
    wanted = {" ".join(name.split()) for name in FAMILIES.split(",")}
    assert wanted <= {case.family for case in table.CASES if case.form == "native"}


def test_every_task_stands_in_it(plugins) -> None:
    assert {case.task for case in table.CASES} >= {
        name for name, task in plugins.tasks.items() if task.__module__.startswith("topwork_tasks")
    }


def test_no_case_stands_in_it_twice() -> None:
    assert len({str(case) for case in table.CASES}) == len(table.CASES)
