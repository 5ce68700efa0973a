"""The options of a run, each with its limits and its help: the fields of `config.RunConfig`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt

from spice_select import constants
from spice_select.amounts import below_whole, read_quotas, read_share, read_targets
from spice_select.file_options import FileOptions
from spice_select.option_values import EMBEDDED_MODEL, AlphaMode, Dtype, Features, Method, Scale, TargetRule

Share = Annotated[str, BeforeValidator(read_share)]
Names = Annotated[list[str], BeforeValidator(lambda value: [str(value)] if isinstance(value, str | Path) else value)]


class RunOptions(BaseModel):
    """Everything that decides a selection, with the paper's defaults where the paper gives one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # what is chosen, and how much
    budget: str = Field(
        "10%",
        description="Rows to keep: '10%', a fraction such as 0.1, or a count such as 500 or 30k. Trained tokens "
        "('20000tok', '2Mtok') with ifd, selectit, fishersft, lead, longest and random (the nearest number of rows), "
        "else with --candidates all (an upper limit; spice and fisher compare scores per token). Excluded rows do not "
        "count.",
    )
    method: Method = Field(
        "spice",
        description="spice; fisher (penalty 0); the baselines norm (largest gradients), dpp (diverse directions), "
        "cosine (nearest to the mean gradient), ifd (instruction-following difficulty), selectit (ratings by models), "
        "fishersft (hidden states of the largest log-det), lead (highest loss, by a proxy that trains on the picks), "
        "longest (responses), random; with --target, among all rows: less (most along it), rds (its rows take turns), "
        "tsds (optimal transport).",
    )
    constants: dict[str, int | float] = Field({}, description=constants.help_text())
    judge: Names = Field(
        [], description="For selectit: a further model that rates rows; the larger a model, the more it counts."
    )
    balance: Literal["source"] | None = Field(
        None,
        description="source: with random, equally many rows of each source, or all that it has.",
    )
    features: Features = Field(
        "gradients",
        description="By what rows are compared: gradients; preconditioned, as AdamW would step by them (LESS); or "
        "states, means of the last layer's hidden states, in a forward pass (RDS+). These two choose among all rows.",
    )
    preset: Literal["paper"] | None = Field(
        None, description="paper: the literal formula (scale none, directions all, absolute alpha 1, no warm-up)."
    )
    quota: Annotated[dict[str, str], BeforeValidator(read_quotas)] = Field(
        {},
        description="Share of the picks from a source (a row's field source, else its file's name without ending): "
        "gsm8k=20%, gsm8k=10%..30%, gsm8k=20%.. (at least), gsm8k=..20% (at most); or rows, gsm8k=200; or its share of "
        "the pool, gsm8k=keep. '*' is each source without a quota of its own; proportional is '*=keep'. If a share "
        "falls between two row counts, both are allowed.",
    )
    given: str | None = Field(
        None, description="Gradient store of rows that you train on already: the picks are those that add most."
    )
    exclude: str | None = Field(
        None, description="File with the ids of rows never to pick, one a line; ids as in scores.parquet."
    )

    # for what
    target: Annotated[list[str], BeforeValidator(read_targets)] = Field(
        [], description="Examples of what to become good at: a file as POOL; for pick a gradient store; a.jsonl=70%."
    )
    target_rule: TargetRule = Field("variance", description="Explain the target's variance, or directed information.")
    target_share: Share = Field("100%", description="Share of the target in what is chosen for; the rest is the pool.")
    stop_coverage: Share | None = Field(None, description="Stop at this share of the whole pool's coverage, e.g. 95%.")
    keep_target_rows: bool = Field(False, description="Let rows that equal a target row be picked.")

    # the score
    penalty: float = Field(
        0.1, ge=0, description="lambda, weight of gradient conflict; picks are stable from 0.1 to 0.5."
    )
    stop_ratio: float | None = Field(
        None, gt=0, le=1, description="omega: stop in a pool when a gain is <= omega * the first gain (SPICE+: 0.5)."
    )
    scale: Scale = Field(
        "auto",
        description="Factor on each gradient: none, sqrt-length (sqrt of trained tokens), unit (1/norm), "
        "geometric (the geometric mean of these two), or auto (unit for states, else geometric).",
    )
    directions: PositiveInt | Literal["auto", "all"] = Field(
        "auto",
        description="Principal gradient directions in which information is measured; auto: half as many as picks of "
        "a pool, at most 16. With a target, the eigenpairs of it that count; auto: up to 64.",
    )
    fisher_alpha: float = Field(1.0, gt=0, description="alpha in log det(I + alpha F); see --fisher-alpha-mode.")
    fisher_alpha_mode: AlphaMode = Field(
        "relative", description="relative: alpha / mean squared norm of the pool's scaled gradients; absolute: alpha."
    )

    # the schedule
    candidates: PositiveInt | Literal["auto", "all"] = Field(
        "auto",
        description="Rows in a candidate pool (m); all: one choice among all rows, with a frozen proxy. auto: all "
        "with a target, a quota, --given, --exclude or a budget in tokens, and for spice and fisher above 2,000 rows; "
        "else, with --preset paper and with another --update-every 120.",
    )
    dim: int = Field(4096, ge=1, le=1 << 20, description="Dimensions of projected gradients.")
    update_every: PositiveInt | Literal["never"] = Field(
        10, description="Pools between two updates of the proxy (T); it stays frozen with never or --candidates all."
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="Random seed: LoRA's initial weights, warm-up rows, projection, any shuffle."
    )

    # the proxy
    model: str = Field(EMBEDDED_MODEL, description="Hub id or local directory of a causal LM, or the embedded default.")
    revision: str | None = Field(None, description="Hub revision: branch, tag or commit.")
    trust_remote_code: bool = Field(False, description="Allow the model repository's own Python code to run.")
    dtype: Dtype = Field("auto", description="Precision; auto: bfloat16 on a GPU that supports it, else float32.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps.")
    lora_rank: int = Field(16, ge=1, description="Rank r of the adapters, on all linear layers.")
    lora_alpha: float = Field(32.0, gt=0, description="LoRA scaling numerator.")
    layers: str = Field(
        "all",
        description="Transformer blocks with adapters: all, or last:N, which takes less time because the backward "
        "pass ends early, and chooses other rows.",
    )
    warmup_steps: int = Field(4, ge=0, description="Optimizer steps on random rows before the first gradients.")
    learning_rate: float = Field(2e-4, gt=0, description="AdamW's peak rate for the proxy.")
    lr_warmup_steps: int = Field(5, ge=0, description="Steps over which the rate rises linearly.")
    update_batch_size: int = Field(8, ge=1, description="Rows in one optimizer step of the proxy.")
    on_bad_gradient: Literal["stop", "skip"] = Field(
        "stop", description="If a loss or gradient is not finite: stop, or skip the row (reported, never picked)."
    )

    # reading and rendering
    format: str | None = Field(None, description="Row format.  [detected for each file]")
    columns: dict[str, str] = Field({}, description="Column of the file that holds a field of the format.")
    per_file: dict[str, FileOptions] = Field({}, description="Format and columns of single inputs, by their names.")
    chat_template: str | None = Field(
        None,
        description="Jinja file, or the name of a template that TRL ships (qwen3_training), in place of the "
        "tokenizer's chat template.",
    )
    skip_invalid: bool = Field(False, description="Leave out unusable rows, and list them, instead of stopping.")
    max_length: int = Field(2048, ge=8, description="Tokens kept of a row; longer rows are cut at the end.")

    # machine
    batch_tokens: PositiveInt | Literal["auto"] = Field(
        "auto", description="Padded tokens in a pass; auto: what a GPU's memory allows, elsewhere 2,048."
    )
    gradient_memory: float = Field(
        4.0, gt=0, description="GiB of gradients held at once; less means more passes and the same result."
    )
    eval_share: Annotated[Share, AfterValidator(below_whole)] | None = Field(
        None, description="Hold this share of the chosen rows out of train.parquet, in eval.parquet: 2%."
    )
    parquet: bool = Field(False, description="Write selected.parquet beside selected.jsonl.")
