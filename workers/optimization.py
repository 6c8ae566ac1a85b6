"""How gradients become updates: the loss, the learning rate, clipping, and an optimizer with decoupled weight decay.

B = images, K = classes.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.definitions import AdamW, Recipe

_EPSILON = 1e-8
"""Of AdamW, beside the root of the mean square."""


def lr_at(step: int, *, recipe: Recipe, steps: int) -> float:
    """The learning rate of the update from `step` to `step + 1`, for step in [0, steps).

    With w warm-up steps: lr_peak * (step + 1) / w below w; from there on with t = (step - w) / (steps - w), lr_peak *
    (1 - t) (linear) or lr_peak * (1 + cos(pi t)) / 2 (cosine). No step has a rate of zero: the first is above it, and
    the decay would reach it one step after the last.
    """
    assert 0 <= step < steps
    if step < recipe.warmup_steps:
        return recipe.lr_peak * (step + 1) / recipe.warmup_steps
    t = (step - recipe.warmup_steps) / (steps - recipe.warmup_steps)
    return recipe.lr_peak * (1 - t if recipe.schedule == "linear" else (1 + math.cos(math.pi * t)) / 2)


def loss_of(logits_BK: Tensor, target: Tensor, recipe: Recipe) -> Tensor:
    """The training loss in nats, a float32 scalar, mean over the batch.

    target: labels, (B,) whole numbers, or shares of classes, (B, K) floating point, as mixup and lists of labels have.
    `softmax` is cross-entropy. `sigmoid` is one binary cross-entropy per class, summed over classes. Label smoothing
    s moves the target to (1 - s) * target + s / K in both, where a label stands for its own class alone.
    """
    logits_BK = logits_BK.float()
    if recipe.loss == "softmax":
        return functional.cross_entropy(logits_BK, target, label_smoothing=recipe.label_smoothing)
    classes = logits_BK.shape[-1]
    target_BK = target if target.ndim == 2 else functional.one_hot(target, classes).to(logits_BK.dtype)
    target_BK = target_BK * (1 - recipe.label_smoothing) + recipe.label_smoothing / classes
    return functional.binary_cross_entropy_with_logits(logits_BK, target_BK, reduction="sum") / len(logits_BK)


def kernels_of(network: nn.Module) -> list[str]:
    """Names of the weights of linear layers and convolutions: all that weight decay touches."""
    layers = ((name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d))
    return [f"{name}.weight" for name, _ in layers]


class Optimizer:
    """AdamW or SGD as a recipe says, with all of its state there from the start.

    Weight decay is decoupled: an update first removes lr * weight_decay of every kernel.
    compiled: updates are recorded and shall be one program for all steps, so what changes from step to step comes as a
    tensor; torch's own optimizers would make a constant of it, or read it on the host.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, *, compiled: bool = False) -> None:
        self.recipe = recipe
        self.compiled = compiled
        self.step = 0
        self.parameters = dict(network.named_parameters())
        kernels = kernels_of(network)
        self.kernels: list[torch.Tensor] = [self.parameters[name] for name in kernels]
        others = [parameter for name, parameter in self.parameters.items() if name not in set(kernels)]
        chosen = recipe.optimizer
        groups = [
            {"params": self.kernels, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        if isinstance(chosen, AdamW):
            self.slots: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
            self.torch: torch.optim.Optimizer = torch.optim.AdamW(
                groups, lr=recipe.lr_peak, betas=(chosen.beta1, chosen.beta2), eps=_EPSILON, fused=not compiled
            )
        else:
            self.slots = ("momentum_buffer",) if chosen.momentum else ()
            # torch's SGD couples its decay to the gradient, so it is given none.
            self.torch = torch.optim.SGD(
                self.parameters.values(), lr=recipe.lr_peak, momentum=chosen.momentum, fused=not compiled
            )
        # State that appears in the first step would make the first step of a resumed training another one than any step
        # of an unbroken one, and costs a second compilation where graphs are compiled.
        for parameter in self.parameters.values():
            self.torch.state[parameter] = {slot: torch.zeros_like(parameter) for slot in self.slots}
        self.set_step(0)

    def set_step(self, step: int) -> None:
        """Go on as after this many updates."""
        self.step = step
        if isinstance(self.recipe.optimizer, AdamW) and not self.compiled:
            for parameter in self.parameters.values():
                count = torch.tensor(float(step), dtype=torch.float32, device=parameter.device)
                self.torch.state[parameter]["step"] = count

    def state(self) -> dict[str, Tensor]:
        """The optimizer's own tensors, `<slot>.<parameter>`: no copies."""
        return {
            f"{slot}.{name}": self.torch.state[parameter][slot]
            for name, parameter in self.parameters.items()
            for slot in self.slots
        }

    def update(self, lr: float) -> None:
        """Clip the gradients, update the parameters, forget the gradients. Reads no value of the device."""
        self.step += 1
        if self.recipe.clip_norm is not None:
            self._clip(self.recipe.clip_norm)
        if self.compiled:
            self._descend(lr)
        else:
            for group in self.torch.param_groups:
                group["lr"] = lr
            if not isinstance(self.recipe.optimizer, AdamW) and self.recipe.weight_decay:
                with torch.no_grad():
                    torch._foreach_mul_(self.kernels, 1 - lr * self.recipe.weight_decay)
            self.torch.step()
        self.torch.zero_grad(set_to_none=True)

    def _clip(self, most: float) -> None:
        # In two halves: in the place of the whole, the import of torch_xla puts a function of its own, for XLA alone.
        parameters = self.parameters.values()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=not self.compiled)
        nn.utils.clip_grads_with_norm_(parameters, most, norm, foreach=not self.compiled)

    @torch.no_grad()
    def _descend(self, lr: float) -> None:
        """The step of torch's optimizers, with the numbers of this step as tensors."""
        chosen = self.recipe.optimizer
        rate, root = lr, 1.0
        if isinstance(chosen, AdamW):
            rate, root = lr / (1 - chosen.beta1**self.step), (1 - chosen.beta2**self.step) ** 0.5
        numbers = torch.tensor([1 - lr * self.recipe.weight_decay, rate, root])
        # Sent as one tensor of three: of a tensor without axes XLA makes a constant where it holds 0 or 1.
        kept, rate_now, root_now = numbers.to(next(iter(self.parameters.values())).device).unbind(0)
        for kernel in self.kernels:
            kernel.mul_(kept)
        for parameter in self.parameters.values():
            if parameter.grad is None:
                continue
            gradient, state = parameter.grad, self.torch.state[parameter]
            if isinstance(chosen, AdamW):
                mean = state["exp_avg"].lerp_(gradient, 1 - chosen.beta1)
                square = state["exp_avg_sq"].mul_(chosen.beta2).addcmul_(gradient, gradient, value=1 - chosen.beta2)
                change = mean / (square.sqrt() / root_now + _EPSILON)
            elif chosen.momentum:
                change = state["momentum_buffer"].mul_(chosen.momentum).add_(gradient)
            else:
                change = gradient
            parameter.sub_(rate_now * change)
