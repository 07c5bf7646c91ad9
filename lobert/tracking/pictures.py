"""The picture of an anatomy: points lost, layer by role."""

import numpy as np
from matplotlib.figure import Figure

from lobert.results.anatomy import Anatomy, drop, in_tenths


def damage_figure(anatomy: Anatomy) -> Figure:
    """A heat map of the points lost where one group alone is compressed: rows are layers, columns roles."""
    roles = list(dict.fromkeys(cell.role for cell in anatomy.cells))
    layers = sorted({cell.layer for cell in anatomy.cells}, key=lambda layer: -1 if layer is None else layer)
    drops = np.full((len(layers), len(roles)), np.nan)
    for cell in anatomy.cells:
        points = drop(anatomy, cell)
        drops[layers.index(cell.layer), roles.index(cell.role)] = np.nan if points is None else points
    figure = Figure(figsize=(2.2 + 0.9 * len(roles), 1.9 + 0.4 * len(layers)), layout="constrained")
    axes = figure.add_subplot()
    reach = max(1.0, float(np.nanmax(np.abs(drops), initial=0)))
    image = axes.imshow(drops, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
    axes.set_xticks(range(len(roles)), [role.replace("_", "\n") for role in roles])
    axes.set_yticks(range(len(layers)), ["outside" if layer is None else str(layer) for layer in layers])
    axes.set_ylabel("layer")
    what = f"{anatomy.task}, {anatomy.decomp}: points of {anatomy.metric} lost"
    axes.set_title(f"{what}\nwhere one group is compressed and all else is the teacher", fontsize=9)
    for (row, column), points in np.ndenumerate(drops):
        if not np.isnan(points):
            dark = abs(points) > 0.6 * reach
            axes.text(column, row, in_tenths(points), ha="center", va="center", color="white" if dark else "black")
    figure.colorbar(image, label="points")
    return figure
