"""The steps of several trainings as one program: their state side by side, a row a run. Not who may be together.

R = runs of a stack, P = parameters of a run, B = images of a batch, X = an image for each run (R B), C = channels,
H, W = pixels, K = classes. A run's place in the stack is its seat.

A step of a small network on a CPU is mostly the calling of operations; a stack calls each for all runs at once.
Products add up in another order than alone, so the last bits differ: a stack is a numerics class of its own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from studies.definitions import SGD, AdamW, AnyTraining
from workers.models.stacked import StackedNetwork
from workers.optimization import loss_of
from workers.training import Training
from workers.updates import EPSILON


class Stack:
    """All that changes while several runs are trained together."""

    def __init__(self, runs: Sequence[AnyTraining], training: Training) -> None:
        """runs: the run of each seat. training: any of them at a step; where all start from."""
        self.runs = runs
        self.training = training
        size = len(runs)
        shapes = {name: parameter.shape for name, parameter in training.network.named_parameters()}
        self.columns, self.cuts = _columns(training)
        own = training.state()
        slots = [f"optimizer.{slot}" for slot in next(iter(training.optimizer.slots.values()))]
        prefixes = ["model", *slots, *(["average"] if training.average else [])]
        self.tables = {
            prefix: torch.cat([own[f"{prefix}.{name}"].reshape(-1) for name in self.columns]).repeat(size, 1)
            for prefix in prefixes
        }
        """What a checkpoint has of each run, (R, P), by the prefix of its names."""
        self.gradient_RP = torch.zeros_like(self.tables["model"])
        self.parameters = {
            name: nn.Parameter(self.tables["model"][:, columns].view(size, *shapes[name]))
            for name, columns in self.columns.items()
        }
        self.network = StackedNetwork(training.network, self.parameters)
        self.optimizer = self._made_optimizer()
        self.set_step(training.step)
        self._seen: tuple[Tensor, Tensor] | None = None

    def set_step(self, step: int) -> None:
        """Go on as after this many updates."""
        self.step = step
        if isinstance(self.optimizer, torch.optim.AdamW):
            for state in self.optimizer.state.values():
                state["step"] = torch.tensor(float(step), device=self.gradient_RP.device)

    def update(self) -> None:
        """Do one step of all runs. Reads no value of the device."""
        training, recipe, size = self.training, self.runs[0].recipe, len(self.runs)
        image_BCHW, target = training.batches.at(self.step)
        with training.device.autocast(recipe.precision):
            logits_XK = self.network(image_BCHW)
        target_X = target.repeat(size, *(1,) * (target.ndim - 1))
        # A mean over the images of all runs, and runs share nothing: times R, each run's gradient is that of its own.
        loss = loss_of(logits_XK, target_X, recipe) * size
        gradients = torch.autograd.grad(loss, list(self.parameters.values()))
        with torch.no_grad():
            torch.cat([gradient.flatten(1) for gradient in gradients], dim=1, out=self.gradient_RP)
            self._clip()
            self._descend()
            if recipe.polyak is not None:
                self.tables["average"].lerp_(self.tables["model"], 1 - recipe.polyak)
        self._seen = logits_XK.detach(), target
        self.step += 1

    def losses(self) -> list[float]:
        """The loss of each run before the last step, in nats."""
        assert self._seen is not None
        logits_XK, target = self._seen
        recipe = self.runs[0].recipe
        return [float(loss_of(logits_BK, target, recipe)) for logits_BK in logits_XK.chunk(len(self.runs))]

    def are_finite(self) -> list[bool]:
        """For each run, whether no number of its state is NaN or infinite."""
        finite_TR = torch.stack([table_RP.isfinite().all(dim=1) for table_RP in self.tables.values()])
        return list(map(bool, finite_TR.all(dim=0)))

    def state_of(self, seat: int) -> dict[str, Tensor]:
        """The state of a run as its checkpoint has it: views, by the names of `Training.state`."""
        return {
            f"{prefix}.{name}": table_RP[seat, columns].view(self.parameters[name].shape[1:])
            for prefix, table_RP in self.tables.items()
            for name, columns in self.columns.items()
        }

    def restore(self, seat: int) -> Training:
        """The training with the state of a run: for all that is done for each run alone. It is one for all seats."""
        training = self.training
        training.run = self.runs[seat]
        training.step = self.step
        own = training.state()
        for name, tensor in self.state_of(seat).items():
            own[name].copy_(tensor)
        return training

    def _clip(self) -> None:
        """Scale the gradients of each run whose norm is larger than its recipe allows."""
        clips = [run.recipe.clip_norm for run in self.runs]
        if clips[0] is not None:
            most_R1 = self.gradient_RP.new_tensor(clips).unsqueeze(1)
            norm_R1 = torch.linalg.vector_norm(self.gradient_RP, dim=1, keepdim=True)
            self.gradient_RP.mul_((most_R1 / (norm_R1 + 1e-6)).clamp_(max=1))  # as torch's clip_grads_with_norm_

    def _made_optimizer(self) -> torch.optim.AdamW | torch.optim.SGD:
        """Torch's own, as for one run. Of each row of parameters, what decays alike is a group."""
        chosen = self.runs[0].recipe.optimizer
        slots = {prefix: table for prefix, table in self.tables.items() if prefix.startswith("optimizer.")}
        groups: list[dict[str, Any]] = []
        states: list[dict[str, Any]] = []
        for seat, run in enumerate(self.runs):
            decays = (run.recipe.weight_decay, run.recipe.head_weight_decay)[: len(self.cuts) - 1]
            for columns, decay in zip(self.cuts, (*decays, 0.0), strict=True):
                row_P = self.tables["model"][seat, columns]
                row_P.grad = self.gradient_RP[seat, columns]
                groups.append({"params": [row_P], "seat": seat, "decay": decay})
                states.append({prefix.split(".")[1]: table[seat, columns] for prefix, table in slots.items()})
        made: torch.optim.AdamW | torch.optim.SGD
        if isinstance(chosen, AdamW):
            groups = [{**group, "weight_decay": group["decay"]} for group in groups]
            made = torch.optim.AdamW(groups, lr=1.0, betas=(chosen.beta1, chosen.beta2), eps=EPSILON, fused=True)
        else:
            assert isinstance(chosen, SGD)
            made = torch.optim.SGD(groups, lr=1.0, momentum=chosen.momentum, fused=True)
        for group, state in zip(groups, states, strict=True):
            made.state[group["params"][0]] = state
        return made

    def _descend(self) -> None:
        """Update each run's row at its own rate."""
        rates = [run.recipe.lr_at(self.step, run.steps) for run in self.runs]
        for group in self.optimizer.param_groups:
            lr = group["lr"] = rates[group["seat"]]
            if isinstance(self.optimizer, torch.optim.SGD) and group["decay"]:
                group["params"][0].mul_(1 - lr * group["decay"])  # torch's SGD would couple it to the gradient
        self.optimizer.step()


def _columns(training: Training) -> tuple[dict[str, slice], list[slice]]:
    """Where each parameter lies in a run's row, and the cuts of a row that decay alike, the last of which does not."""
    named = dict(training.network.named_parameters())
    name_of = {id(parameter): name for name, parameter in named.items()}
    parts = [[name_of[id(kernel)] for kernel in kernels] for _, kernels in training.optimizer.decayed]
    parts.append([name for name in named if not any(name in part for part in parts)])
    columns, cuts, end = {}, [], 0
    for part in parts:
        start = end
        for name in part:
            columns[name] = slice(end, end := end + named[name].numel())
        cuts.append(slice(start, end))
    return columns, cuts
