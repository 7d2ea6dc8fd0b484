"""Classification with torchdistill: a DistillationBox with its KDLoss on the two classifiers, after its own example for GLUE.

Its image models want torchvision, whose wheel for CUDA does not import beside a torch for the CPU. Nothing of torchvision is
used for texts, so where it does not import, the names that torchdistill asks for are stood in for.
"""

import logging
import sys
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.utils.data import RandomSampler, SequentialSampler
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    get_cosine_schedule_with_warmup,
    set_seed,
)

from bench.peers.task import Clock, Task, rows


def stand_in_for_torchvision() -> None:
    try:
        import torchvision  # noqa: F401
    except Exception:
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        names = {"": (), ".datasets": (), ".models": (), ".models.densenet": ("_DenseBlock", "_Transition")}
        names[".models.resnet"] = ("BasicBlock", "conv1x1")
        for part, wanted in names.items():
            module = ModuleType(f"torchvision{part}")
            for name in wanted:
                setattr(module, name, type(name, (nn.Module,), {}))
            sys.modules[module.__name__] = module
            parent, _, child = module.__name__.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)


def settings(task: Task, examples: int) -> dict[str, Any]:
    """What its YAML files hold."""
    steps = -(-examples // task.batch_size) * task.epochs
    kd = {
        "key": "KDLoss",
        "kwargs": {
            "student_module_path": "classifier",
            "student_module_io": "output",
            "teacher_module_path": "classifier",
            "teacher_module_io": "output",
            "temperature": task.temperature,
            "alpha": 1 - task.soft_weight,  # of the labels, here
        },
    }

    def loader(name: str, sampler: Any, batch_size: int) -> dict[str, Any]:
        found = {"dataset_id": name, "sampler": {"class_or_func": sampler}, "collate_fn": "pad", "requires_supp": False}
        return {**found, "kwargs": {"batch_size": batch_size}}

    side = {"forward_proc": "forward_batch_only_as_kwargs", "forward_hook": {"output": ["classifier"]}}
    return {
        "num_epochs": task.epochs,
        "train_data_loader": loader("train", RandomSampler, task.batch_size),
        "val_data_loader": loader("validation", SequentialSampler, 64),
        "teacher": {**side, "requires_grad": False},
        "student": side,
        "optimizer": {
            "key": "AdamW",
            "kwargs": {"lr": task.learning_rate, "weight_decay": task.weight_decay, "fused": True},
            "max_grad_norm": task.max_grad_norm,
        },
        "scheduler": {
            "key": "get_cosine_schedule_with_warmup",
            "kwargs": {"num_warmup_steps": round(steps * task.warmup_ratio), "num_training_steps": steps},
            "scheduling_step": 1,
        },
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}}},
    }


def main() -> None:
    task, clock = Task.given(), Clock()
    if task.threads:
        torch.set_num_threads(task.threads)
    device = torch.device("cpu" if task.threads or not torch.cuda.is_available() else "cuda")
    set_seed(task.seed)
    stand_in_for_torchvision()
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.datasets.registry import register_collate_func
    from torchdistill.optim.registry import register_scheduler

    logging.disable(logging.INFO)
    register_scheduler(get_cosine_schedule_with_warmup)

    with clock.part("load"):
        tokenizer = AutoTokenizer.from_pretrained(task.student)
        student = AutoModelForSequenceClassification.from_pretrained(task.student)
        teacher = AutoModelForSequenceClassification.from_pretrained(task.teacher).eval()
        pad = DataCollatorWithPadding(tokenizer)
        numbers = student.config.label2id

        def tokenized(path: str) -> list[dict[str, Any]]:
            found = rows(path)
            encoded = tokenizer([row["text"] for row in found], truncation=True, max_length=task.max_length)
            labels = [numbers[row["label"]] for row in found]
            return [{**{k: v[i] for k, v in encoded.items()}, "labels": label} for i, label in enumerate(labels)]

        data = {"train": tokenized(task.train), "validation": tokenized(task.validation)}
        register_collate_func(key="pad")(lambda batch: pad(batch))
        config = settings(task, len(data["train"]))

    with clock.part("train"):
        box = get_distillation_box(teacher, student, data, config, device, None, False, 1)
        for epoch in range(box.num_epochs):
            box.pre_epoch_process(epoch=epoch)
            for batch in box.train_data_loader:
                targets = batch.pop("labels").to(device)
                loss = box.forward_process(batch.to(device), targets=targets, supp_dict={})
                box.post_forward_process(loss=loss)
            print(f"epoch {epoch}: accuracy {accuracy(student, box.val_data_loader, device):.4f}")
            box.post_epoch_process()

    with clock.part("save"):
        student.save_pretrained(task.out)
        tokenizer.save_pretrained(task.out)
    clock.write(task.out)


@torch.inference_mode()
def accuracy(model: Any, loader: Any, device: torch.device) -> float:
    model.eval()
    right = total = 0
    for batch in loader:
        labels = batch.pop("labels").to(device)
        right += int((model(**batch.to(device)).logits.argmax(-1) == labels).sum())
        total += len(labels)
    return right / total


if __name__ == "__main__":
    main()
