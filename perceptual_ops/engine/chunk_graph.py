"""Checks of the autograd graph of one chunk's values; foreign leaves are reported by name."""

from __future__ import annotations

import functools
import inspect
import itertools
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm

DEPTH = 4  # of objects within objects, to look for names in
MAX_NAMED = 3  # tensors in one message


class ChunkGraph:
    """The graph behind the values (n) of one chunk, whose only leaf is to be the chunk.

    Attributes:
        has_fp16: Whether a gradient passes through fp16.
    """

    def __init__(self, values: Tensor, leaf: Tensor) -> None:
        self._values, self._leaf = values, leaf
        self._nodes = nodes_behind([values])
        self.has_fp16: bool = passes_fp16(self._nodes)

    def check(self, fn: Callable[..., Tensor]) -> None:
        """Refuses a graph that reaches other leaves, that does not reach the chunk, or that mixes its samples."""
        leaves = [node.variable for node in self._nodes if hasattr(node, "variable")]
        foreign = [leaf for leaf in leaves if leaf is not self._leaf]
        norms = [node for node in self._nodes if getattr(node, "_saved_training", False)]  # cuDNN's node has it too
        if foreign:
            raise ValueError(
                "fn: expected frozen networks and constants, since the gradient flows to output alone; got tensors "
                f"that require grad or are computed from such: {self._origins(foreign, named_tensors(fn))}; freeze "
                "them by requires_grad_(False), pass .detach(), or train them by calling fn itself"
            )
        if self._leaf.requires_grad and not leaves:
            raise ValueError(
                "fn: expected values that depend on output, got none with a gradient; look for torch.no_grad(), "
                ".detach() or .item() within fn"
            )
        if norms:
            names = named_tensors(fn)
            mixing = list(filter(None, (_mixing_norm(node, names) for node in norms)))
            if mixing:
                raise ValueError(
                    "fn: expected values of one sample each, got batch normalisation by the statistics of a chunk: "
                    f"{_listed(mixing)}; call .eval() on it, or call fn itself"
                )

    def _origins(self, foreign: list[Tensor], names: dict[int, str]) -> str:
        """The names of foreign leaves and of results computed from them; where fn holds none of these, the shapes."""
        reached = {id(x) for x in (*self._nodes, *foreign)}
        named = [name for key, name in names.items() if key in reached]
        return _listed(named or [f"one of shape {tuple(leaf.shape)}" for leaf in foreign])


def nodes_behind(results: Iterable[Tensor]) -> list[Any]:
    """Every node of the graph of results, in the order of a search in depth."""
    nodes: dict[Any, None] = {}
    waiting: list[Any] = [get_gradient_edge(result).node for result in results if result.requires_grad]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes[node] = None
            waiting += [below for below, _ in reversed(node.next_functions)]
    return list(nodes)


def passes_fp16(nodes: Iterable[Any]) -> bool:
    """Whether a gradient passes through fp16 on its way, and may vanish or overflow."""
    return any(tensor.dtype == torch.float16 for node in nodes for tensor in _known_of(node))


def _known_of(node: Any) -> Iterable[Any]:
    """What is known of the gradients that come to a node; before torch 2.5 of the tensors that it kept."""
    # Undocumented in torch, but nothing else shows a cast within a function or module.
    if hasattr(node, "_input_metadata"):
        return node._input_metadata
    kept = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
    return [tensor for tensor in kept if isinstance(tensor, Tensor)]


def _mixing_norm(node: Any, names: dict[int, str]) -> str | None:
    """The name of a batch normalisation; None for torch's instance normalisation, which is one of a single sample."""
    own = (getattr(node, f"_saved_{tensor}", None) for tensor in ("weight", "running_mean"))
    name = next((names[id(tensor)] for tensor in own if id(tensor) in names), None)
    if name is None:
        return node.name() if node._saved_input.shape[0] > 1 else None
    return name.rpartition(".")[0] or "fn"


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def refuse_training_norms(fn: object) -> None:
    """Refuses a module with batch normalisation in training mode, also where no graph is to show it."""
    if not isinstance(fn, nn.Module):
        return
    norms = [name or "fn" for name, module in fn.named_modules() if isinstance(module, _BatchNorm) and module.training]
    if norms:
        raise ValueError(
            f"fn: expected values of one sample each, got batch normalisation in training mode: {_listed(norms)}; call "
            ".eval() on it, or call fn itself"
        )


def named_tensors(fn: Callable[..., Tensor]) -> dict[int, str]:
    """id -> name, of the tensors that a function holds and of the nodes that computed them.

    Looked for in a module, in what a function closes over or reads of its globals, in a partial's arguments and in the
    attributes of a bound method's object.
    """
    names: dict[int, str] = {}
    _collect("", fn, names, set(), DEPTH)
    return names


def _collect(name: str, value: object, names: dict[int, str], seen: set[int], depth: int) -> None:
    if id(value) in seen or depth < 0:
        return
    if isinstance(value, Tensor):
        names.setdefault(id(value), name)
        if value.grad_fn is not None:
            names.setdefault(id(value.grad_fn), name)
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        for own, tensor in itertools.chain(value.named_parameters(), value.named_buffers()):
            _collect(_joined(name, own), tensor, names, seen, depth)
    for own, part in _parts(value):
        _collect(_joined(name, own), part, names, seen, depth - 1)


def _joined(name: str, own: str) -> str:
    return f"{name}.{own}" if name and own else name or own


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    """What an object holds, by name; nothing of a module of Python, a class, or what is written in C."""
    if isinstance(value, functools.partial):
        yield "", value.func
        yield from ((f"args[{i}]", x) for i, x in enumerate(value.args))
        yield from value.keywords.items()
    elif isinstance(value, types.MethodType):
        yield "self", value.__self__
        yield "", value.__func__
    elif isinstance(value, types.FunctionType):
        yield from _closed_over(value)
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{i}]", x) for i, x in enumerate(value))
    elif isinstance(value, dict):
        yield from ((f"[{key!r}]", x) for key, x in value.items())
    elif hasattr(value, "__dict__") and not isinstance(value, (type, types.ModuleType)):
        yield from ((key, x) for key, x in vars(value).items() if key not in ("_parameters", "_buffers", "_modules"))
        if callable(value):
            yield "", getattr(type(value).__call__, "__func__", type(value).__call__)


def _closed_over(fn: types.FunctionType) -> Iterator[tuple[str, object]]:
    code = fn.__code__
    for own, cell in zip(code.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield own, cell.cell_contents
        except ValueError:  # an empty cell
            continue
    yield from ((own, fn.__globals__[own]) for own in code.co_names if own in fn.__globals__)
    signature = inspect.signature(fn).parameters.values()
    yield from ((x.name, x.default) for x in signature if x.default is not x.empty)
