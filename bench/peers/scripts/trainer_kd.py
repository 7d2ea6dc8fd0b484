"""Classification with the Hugging Face Trainer and the distillation loss that every tutorial shows.

L = (1 - a) CE(labels) + a T^2 KL(teacher at T || student at T), in compute_loss.
loop:    the teacher runs beside the student in every step
stored:  the teacher runs once, in batches of like length; its logits are a column of the data set
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from bench.peers.task import Clock, Task, rows


class DistillationTrainer(Trainer):
    def __init__(self, *args: Any, teacher: Any, soft_weight: float, temperature: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher, self.soft_weight, self.temperature = teacher, soft_weight, temperature
        if teacher is not None:
            self.teacher.to(self.args.device).eval()

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        stored = inputs.pop("teacher_logits", None)
        outputs = model(**inputs)
        loss = outputs.loss
        if model.training:
            if stored is None:
                with torch.no_grad():
                    stored = self.teacher(**{k: v for k, v in inputs.items() if k != "labels"}).logits
            student = F.log_softmax(outputs.logits / self.temperature, dim=-1)
            soft = F.kl_div(student, F.softmax(stored / self.temperature, dim=-1), reduction="batchmean")
            loss = (1 - self.soft_weight) * loss + self.soft_weight * self.temperature**2 * soft
        return (loss, outputs) if return_outputs else loss


@torch.no_grad()
def teacher_logits(teacher: Any, texts: list[str], folder: str, max_length: int, device: str) -> list[list[float]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    teacher.to(device).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found: list[Any] = [None] * len(texts)
    for start in range(0, len(order), 64):
        which = order[start : start + 64]
        batch = tokenizer([texts[i] for i in which], truncation=True, max_length=max_length, padding=True, return_tensors="pt")
        for i, logits in zip(which, teacher(**batch.to(device)).logits.cpu().tolist(), strict=True):
            found[i] = logits
    return found


def settings(task: Task, device: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=f"{task.out}/trainer",
        num_train_epochs=task.epochs,
        per_device_train_batch_size=task.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=task.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=task.warmup_ratio,  # below 1: a share of all steps
        weight_decay=task.weight_decay,
        max_grad_norm=task.max_grad_norm,
        optim="adamw_torch_fused",
        train_sampling_strategy="group_by_length",
        seed=task.seed,
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="epoch",
        report_to="none",
        remove_unused_columns=False,
        use_cpu=device == "cpu",
        disable_tqdm=True,
    )


def main() -> None:
    task, clock = Task.given(), Clock()
    if task.threads:
        torch.set_num_threads(task.threads)
    device = "cpu" if task.threads or not torch.cuda.is_available() else "cuda"
    set_seed(task.seed)

    with clock.part("load"):
        tokenizer = AutoTokenizer.from_pretrained(task.student)
        student = AutoModelForSequenceClassification.from_pretrained(task.student)
        teacher = AutoModelForSequenceClassification.from_pretrained(task.teacher)
        numbers = student.config.label2id

        def tokenized(path: str) -> Dataset:
            def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
                encoded = tokenizer(batch["text"], truncation=True, max_length=task.max_length)
                return {**encoded, "labels": [numbers[label] for label in batch["label"]]}

            return Dataset.from_list(rows(path)).map(encode, batched=True, remove_columns=["text", "label"])

        train, validation = tokenized(task.train), tokenized(task.validation)

    with clock.part("label"):
        if task.variant == "stored":
            texts = [row["text"] for row in rows(task.train)]
            train = train.add_column("teacher_logits", teacher_logits(teacher, texts, task.teacher, task.max_length, device))

    with clock.part("train"):
        arguments = settings(task, device)
        trainer = DistillationTrainer(
            student,
            arguments,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda p: {"accuracy": float((np.argmax(p.predictions, -1) == p.label_ids).mean())},
            teacher=None if task.variant == "stored" else teacher,
            soft_weight=task.soft_weight,
            temperature=task.temperature,
        )
        trainer.train()

    with clock.part("save"):
        student.save_pretrained(task.out)
        tokenizer.save_pretrained(task.out)
    clock.write(task.out)


if __name__ == "__main__":
    main()
