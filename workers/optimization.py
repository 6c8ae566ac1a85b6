"""How gradients become updates: the loss, clipping, and optimizers with decoupled weight decay.

B = images, K = classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.definitions import SGD, AdamW, Recipe
from workers.updates import EPSILON, Number, change_of, numbers_of, slots_of

_HEADS = ("head.weight", "vit.head.weight", "predict.weight")
"""Kernel of the last linear layer in each kind of network."""


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


def _decayed(network: nn.Module, recipe: Recipe) -> list[tuple[float, list[str]]]:
    """Names of the kernels that are trained by the weight decay that they get."""
    kernels = [name for name in kernels_of(network) if network.get_parameter(name).requires_grad]
    if recipe.head_weight_decay is None:
        return [(recipe.weight_decay, kernels)]
    heads = [name for name in kernels if name in _HEADS]
    assert len(heads) == 1, f"a network has one head, not {heads}"
    return [(recipe.weight_decay, [name for name in kernels if name not in heads]), (recipe.head_weight_decay, heads)]


class Optimizer:
    """AdamW, SGD or Adafactor as a recipe says, with all of its state there from the start.

    It knows what the network trains: frozen parameters have no state and do not change.
    Weight decay is decoupled: an update first removes lr * weight_decay of every kernel.
    compiled: updates are recorded and shall be one program for all steps, so what changes from step to step comes as a
    tensor; torch's own optimizers would make a constant of it, or read it on the host.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, *, compiled: bool = False) -> None:
        self.recipe = recipe
        self.compiled = compiled
        self.step = 0
        self.parameters = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
        self.decayed: list[tuple[float, list[Tensor]]] = [
            (weight_decay, [self.parameters[name] for name in names])
            for weight_decay, names in _decayed(network, recipe)
        ]
        # State that appears in the first step would make the first step of a resumed training another one than any step
        # of an unbroken one, and costs a second compilation where graphs are compiled.
        self.slots = {name: slots_of(recipe.optimizer, parameter) for name, parameter in self.parameters.items()}
        self.torch = None if compiled else self._of_torch()
        self.set_step(0)

    def set_step(self, step: int) -> None:
        """Go on as after this many updates."""
        self.step = step
        if isinstance(self.torch, torch.optim.AdamW):
            for parameter in self.parameters.values():
                count = torch.tensor(float(step), dtype=torch.float32, device=parameter.device)
                self.torch.state[parameter]["step"] = count

    def state(self) -> dict[str, Tensor]:
        """The optimizer's own tensors, `<slot>.<parameter>`: no copies."""
        return {f"{slot}.{name}": tensor for name, slots in self.slots.items() for slot, tensor in slots.items()}

    def update(self, lr: float) -> None:
        """Clip the gradients, update the parameters, forget the gradients. Reads no value of the device."""
        self.step += 1
        if self.recipe.clip_norm is not None:
            self._clip(self.recipe.clip_norm)
        if self.torch is None:
            self._descend(lr)
        else:
            self._descend_by_torch(self.torch, lr)
        for parameter in self.parameters.values():
            parameter.grad = None

    def _of_torch(self) -> torch.optim.Optimizer | None:
        """Torch's own optimizer, which has the whole update in one kernel, on our slots; None where it has none."""
        chosen = self.recipe.optimizer
        made: torch.optim.Optimizer
        match chosen:
            case AdamW(momentum_precision="fp32"):
                decayed = {id(kernel) for _, kernels in self.decayed for kernel in kernels}
                others = [parameter for parameter in self.parameters.values() if id(parameter) not in decayed]
                groups = [
                    {"params": kernels, "weight_decay": decay} for decay, kernels in (*self.decayed, (0.0, others))
                ]
                betas = (chosen.beta1, chosen.beta2)
                made = torch.optim.AdamW(groups, lr=self.recipe.lr_peak, betas=betas, eps=EPSILON, fused=True)
            case SGD(momentum_precision="fp32"):
                # torch's SGD couples its decay to the gradient, so it is given none.
                parameters = self.parameters.values()
                made = torch.optim.SGD(parameters, lr=self.recipe.lr_peak, momentum=chosen.momentum, fused=True)
            case _:
                return None
        for name, parameter in self.parameters.items():
            made.state[parameter] = dict(self.slots[name])
        return made

    def _clip(self, most: float) -> None:
        # In two halves: in the place of the whole, the import of torch_xla puts a function of its own, for XLA alone.
        parameters = self.parameters.values()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=not self.compiled)
        nn.utils.clip_grads_with_norm_(parameters, most, norm, foreach=not self.compiled)

    @torch.no_grad()
    def _descend_by_torch(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr
        if isinstance(self.recipe.optimizer, SGD):
            for weight_decay, kernels in self.decayed:
                if weight_decay:
                    torch._foreach_mul_(kernels, 1 - lr * weight_decay)
        optimizer.step()

    @torch.no_grad()
    def _descend(self, lr: float) -> None:
        """One parameter after the other, so that what is computed in between takes little memory."""
        chosen = self.recipe.optimizer
        left = [1 - lr * weight_decay for weight_decay, _ in self.decayed]
        numbers = self._sent([*left, *numbers_of(chosen, lr, self.step)])
        for (_, kernels), left_now in zip(self.decayed, numbers, strict=False):
            for kernel in kernels:
                kernel.mul_(left_now)
        rate, *rest = numbers[len(left) :]
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                parameter.sub_(rate * change_of(chosen, parameter.grad, self.slots[name], rest))

    def _sent(self, numbers: list[float]) -> Sequence[Number]:
        """The numbers of this step as an update takes them."""
        if not self.compiled:
            return numbers
        # As one tensor: of a tensor without axes XLA makes a constant where it holds 0 or 1.
        device = next(iter(self.parameters.values())).device
        return list(torch.tensor(numbers).to(device).unbind(0))
