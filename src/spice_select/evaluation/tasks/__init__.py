"""The paper's eight benchmarks through EleutherAI's lm-eval (the extra `tasks`)."""

from spice_select.evaluation.tasks.benchmarks import TASKS as TASKS
from spice_select.evaluation.tasks.results import TaskResult as TaskResult
from spice_select.evaluation.tasks.run import check_tasks as check_tasks
from spice_select.evaluation.tasks.run import run_tasks as run_tasks
