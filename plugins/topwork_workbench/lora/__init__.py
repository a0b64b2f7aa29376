"""LoRA by peft: which modules get it (`targets`), on a model and off again (`layers`), in a `folder`, the `stage`."""
