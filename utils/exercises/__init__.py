"""The checks of the labs' exercises: exercises.check_softmax(softmax) and the like, one for each.

A check compares with an independent reference on fresh random input and prints one line where the answer
is right. Where it is not, it raises Wrong with one sentence that names the usual mistake, and where nothing
was written yet, Unsolved; neither shows the answer. The labs' own random numbers stay as they were.
"""

from utils.exercises.alignment import (
    check_advantages,
    check_bradley_terry,
    check_clipped_loss,
    check_clipping,
    check_reward_by_name,
    check_token_rewards,
)
from utils.exercises.feedback import Unsolved, Wrong
from utils.exercises.finetuning import (
    check_by_formula,
    check_lora,
    check_lora_count,
    check_mean_loss,
    check_merge,
    check_pad_labels,
)
from utils.exercises.inside import check_analogy, check_attention, check_cached_step, check_window_mask
from utils.exercises.prompting import (
    check_distinct,
    check_entropy,
    check_fill_window,
    check_same_topic,
    check_softmax,
    check_top_p,
)
