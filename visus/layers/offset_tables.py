"""Tables of relative position biases in files of another window or grid."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from visus.ops.windows import resize_bias_table, table_window


def fit_offset_tables(state: Mapping[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """The state with each relative_position_bias_table resized to the model's windows, and what was done in words.
    What is no such table, or of other heads, is left for strict loading to refuse."""
    state, notes = dict(state), []
    for name, target in model.named_parameters():
        if not name.endswith("relative_position_bias_table") or name not in state:
            continue
        table = state[name]
        window, new = table_window(table), table_window(target)
        if window and new and window != new and table.shape[1:] == target.shape[1:]:
            state[name] = resize_bias_table(table, new)
            note = f"relative position biases were resized from windows of {window} x {window} to {new} x {new}"
            notes += [note] if note not in notes else []
    return state, notes
