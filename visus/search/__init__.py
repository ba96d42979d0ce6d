"""Search for architectures: spaces that are sampled and compared, and three ways to look for a good cell.

`design_space` compares spaces by the error distribution of their samples; `cell_space` writes cells down as decisions;
`controller` (policy gradient), `one_shot` (shared weights) and chance choose among them; `cells.search_cells` runs any
of them on images. Nothing here knows where images come from.
"""
