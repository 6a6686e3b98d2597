"""With the Trainer of transformers itself: what it trains is the same with and without the callback."""

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed: make test-watch")
pytest.importorskip("accelerate", reason="accelerate is not installed: make test-watch")
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from lanczos_saddle import Hessian, TrainerSpectrum, exact_eigenvalues

TOKENS = torch.randint(12, (16, 6), generator=torch.Generator().manual_seed(0))
BATCH = {"input_ids": TOKENS, "labels": TOKENS}
SAMPLES = [{"input_ids": row, "labels": row} for row in TOKENS]


def trained(folder, *callbacks, **options):
    torch.manual_seed(0)
    shape = {"n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 8}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=12, bos_token_id=0, eos_token_id=0, **shape))  # with dropout
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=6, per_device_train_batch_size=4, learning_rate=1e-2, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, **options,
    )  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=SAMPLES, callbacks=list(callbacks)).train()
    return model


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("options", [{}, {"bf16": True}, {"gradient_accumulation_steps": 2}])
def test_training_is_the_same(tmp_path, options):
    alone = trained(tmp_path, **options)
    callback = TrainerSpectrum(BATCH, threshold=1e-3, every=3, share=None, method="exact")
    watched = trained(tmp_path, callback, **options)
    assert same(alone, watched)
    assert not callback.monitor.failures
    assert [moment.step for moment in callback.monitor.moments] == [0, 3, 6]


def test_the_counts_are_those_of_the_trained_model(tmp_path):
    callback = TrainerSpectrum(BATCH, threshold=1e-3, every=6, share=None, method="exact")
    model = trained(tmp_path, callback).eval()
    values = exact_eigenvalues(Hessian(model, None, BATCH, dtype=torch.float64))
    assert callback.monitor.moments[-1].counts.negative.estimate == int((values < -1e-3).sum())
