"""Embedding distillation with sentence-transformers, as its own documentation recommends.

The teacher encodes every sentence once; the student learns those vectors with SentenceTransformerTrainer. Widths differ, so
mse:            the teacher's vectors are first brought to the student's width by a PCA (a Dense module), then MSELoss
embed_distill:  EmbedDistillLoss, cosine, with a projection of the student's vectors that is dropped afterwards
"""

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss, MSELoss
from sentence_transformers.sentence_transformer.modules import Pooling
from sklearn.decomposition import PCA
from transformers import set_seed

from bench.peers.task import Clock, Task, rows


def main() -> None:
    task, clock = Task.given(), Clock()
    if task.threads:
        torch.set_num_threads(task.threads)
    device = "cpu" if task.threads or not torch.cuda.is_available() else "cuda"
    set_seed(task.seed)

    with clock.part("load"):
        teacher = SentenceTransformer(task.teacher, device=device)
        teacher.max_seq_length = task.max_length
        body = Transformer(task.student, max_seq_length=task.max_length)
        pooling = Pooling(body.get_embedding_dimension(), pooling_mode="mean")
        student = SentenceTransformer(modules=[body, pooling], device=device)
        sentences = [row["text"] for row in rows(task.train)]
        pairs = rows(task.validation)
        evaluator = EmbeddingSimilarityEvaluator(
            [p["text"] for p in pairs], [p["text_b"] for p in pairs], [p["score"] for p in pairs], batch_size=64
        )

    with clock.part("label"):
        vectors = teacher.encode(sentences, batch_size=64)
        if task.variant == "mse":
            pca = PCA(n_components=student.get_embedding_dimension(), random_state=task.seed).fit(vectors)
            dense = Dense(vectors.shape[1], pca.n_components_, bias=False, activation_function=torch.nn.Identity())
            dense.linear.weight = torch.nn.Parameter(torch.tensor(pca.components_, dtype=torch.float32))
            with torch.no_grad():
                vectors = dense.linear(torch.tensor(vectors)).numpy()
            loss = MSELoss(student)
        else:
            loss = EmbedDistillLoss(student, distance_metric="cosine", projection_dim=vectors.shape[1])
        train = Dataset.from_dict({"sentence": sentences, "label": list(vectors)})

    with clock.part("train"):
        arguments = SentenceTransformerTrainingArguments(
            output_dir=f"{task.out}/trainer",
            num_train_epochs=task.epochs,
            per_device_train_batch_size=task.batch_size,
            learning_rate=task.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=task.warmup_ratio,  # below 1: a share of all steps
            weight_decay=task.weight_decay,
            max_grad_norm=task.max_grad_norm,
            optim="adamw_torch_fused",
            seed=task.seed,
            eval_strategy="epoch",
            save_strategy="no",
            logging_strategy="epoch",
            report_to="none",
            use_cpu=device == "cpu",
            disable_tqdm=True,
        )
        SentenceTransformerTrainer(student, arguments, train_dataset=train, loss=loss, evaluator=evaluator).train()

    with clock.part("save"):
        student.save_pretrained(task.out)
    clock.write(task.out)


if __name__ == "__main__":
    main()
