"""The parts of vision transformers against slow references: positions, attention, heads, stochastic depth."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.models import ViT
from workers.models.blocks import AxialBlock, Block, StochasticDepth
from workers.models.build import blueprint, build, materialize
from workers.models.draws import Draws
from workers.models.pooling import AttentionPool
from workers.models.positions import relative_bias, sincos, skewed
from workers.models.vit import VisionTransformer

GRID = (3, 4)


def small(**fields: Any) -> ViT:
    return ViT.model_validate({"patch": 2, "width": 16, "depth": 3, "mlp": 32, "heads": 2, "head": "gap", **fields})


def network_of(model: ViT, **options: float) -> VisionTransformer:
    """For images of 6 x 8 pixels, 3 x 4 patches, with random numbers in every parameter."""
    network = build(model, image_size=(6, 8), channels=1, classes=5, seed=0, **options)
    assert isinstance(network, VisionTransformer)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(network.named_parameters()):
            Draws(index).normal(name, parameter, std=0.5)
    return network


def image_of(batch: int = 2) -> Tensor:
    return torch.randn(batch, 1, 6, 8, generator=torch.Generator().manual_seed(0))


def mixed(block: Block, x_TD: Tensor, bias_NTT: Tensor | None = None) -> Tensor:
    """Attention and MLP of a block on one sequence, head by head, with the matrices written out."""
    heads = block.heads
    q_TD, k_TD, v_TD = block.qkv(block.norm1(x_TD)).chunk(3, dim=-1)
    out = []
    for head in range(heads):
        q_Td, k_Td, v_Td = (part.chunk(heads, dim=-1)[head] for part in (q_TD, k_TD, v_TD))
        logits_TT = q_Td @ k_Td.T / math.sqrt(q_Td.shape[-1])
        if bias_NTT is not None:
            logits_TT = logits_TT + bias_NTT[head]
        out.append(torch.softmax(logits_TT, dim=-1) @ v_Td)
    x_TD = x_TD + block.out(torch.cat(out, dim=-1))
    mlp: Tensor = block.mlp2(functional.gelu(block.mlp1(block.norm2(x_TD)), approximate="tanh"))
    return x_TD + mlp


# ------------------------------------------------------------------------------------------------------- positions


def test_sines_and_cosines_are_those_of_big_vision() -> None:
    rows, columns, width = 3, 5, 16
    table = sincos((rows, columns), width)
    for row in range(rows):
        for column in range(columns):
            for index in range(width // 4):
                omega = 1 / 10_000 ** (index / (width // 4 - 1))
                found = table[row * columns + column, index :: width // 4].tolist()
                expected = [f(place * omega) for place in (column, row) for f in (math.sin, math.cos)]
                assert found == pytest.approx(expected, abs=1e-7)


def test_constants_are_right_after_a_network_got_its_memory_and_are_in_no_checkpoint() -> None:
    network = blueprint(small(position="sincos-2d"), image_size=(6, 8), channels=1, classes=5)
    assert isinstance(network, VisionTransformer)
    for _ in range(2):
        materialize(network, "cpu")
        assert network.sincos_TD is not None
        assert torch.equal(network.sincos_TD, sincos(GRID, 16))
    assert not [name for name in network.state_dict() if "sincos" in name]


@pytest.mark.parametrize("head", ["token", "map"])
def test_learned_2d_positions_are_a_row_and_a_column_side_by_side(head: str) -> None:
    network = network_of(small(position="learned-2d", head=head))
    table = network.table()
    assert table is not None
    assert network.position_row_Hd is not None
    assert network.position_col_Wd is not None
    for row in range(3):
        for column in range(4):
            expected = torch.cat([network.position_row_Hd[row], network.position_col_Wd[column]])
            assert torch.equal(table[row * 4 + column], expected)
    x_BTD = torch.zeros(1, 12 + (head == "token"), 16)
    assert torch.equal(network.positioned(x_BTD)[0, -12:], table)
    assert not network.positioned(x_BTD)[0, :-12].any(), "the class token has no position"


def test_only_vision_transformers_code_gives_the_class_token_a_position() -> None:
    google, bigger = (network_of(small(head="token", code=code)) for code in ("vision-transformer", "big-vision"))
    assert google.position_TD is not None
    assert bigger.position_TD is not None
    assert [len(google.position_TD), len(bigger.position_TD)] == [13, 12]
    x_BTD = torch.zeros(1, 13, 16)
    assert torch.equal(google.positioned(x_BTD)[0], google.position_TD)
    assert torch.equal(bigger.positioned(x_BTD)[0, 1:], bigger.position_TD)
    assert not bigger.positioned(x_BTD)[0, 0].any()
    # Function class is the same: a position of the class token can be added to the token itself.
    with torch.no_grad():
        theirs = dict(google.named_parameters())
        for name, parameter in bigger.named_parameters():
            parameter.copy_(theirs[name][1:] if name == "position_TD" else theirs[name])
        assert bigger.cls_1D is not None
        bigger.cls_1D.add_(google.position_TD[:1])
    torch.testing.assert_close(bigger(image_of()), google(image_of()))


@pytest.mark.parametrize("position", ["learned-1d", "learned-2d"])
@pytest.mark.parametrize("head", ["token", "gap"])
def test_positions_are_added_where_the_definition_says(position: str, head: str) -> None:
    seen: dict[str, list[Tensor]] = {}
    for place in ("stem", "shared", "layers"):
        network = network_of(small(position=position, position_at=place, head=head))
        found = seen[place] = []
        for block in network.blocks:
            assert isinstance(block, Block)
            block.norm1.register_forward_pre_hook(lambda module, inputs, found=found: found.append(inputs[0]))
            # A block that gives back its input shows what was added before it.
            nn.init.zeros_(block.out.weight), nn.init.zeros_(block.out.bias)
            nn.init.zeros_(block.mlp2.weight), nn.init.zeros_(block.mlp2.bias)
        network(image_of())
        bare = network.embedded(image_of())
        table = network.table()
        if place == "layers":
            assert table is None
            tables = [block.table() for block in network.blocks if isinstance(block, Block)]
            assert len({id(one) for one in tables}) == 3
        else:
            tables = [table] if place == "stem" else [table] * 3
        total = bare
        for index, found_BTD in enumerate(seen[place]):
            if index < len(tables):
                one = tables[index]
                assert one is not None
                total = total + one[-12:]
            torch.testing.assert_close(found_BTD[:, -12:], total)


def test_skewing_reads_the_offset_between_two_places() -> None:
    tokens = 5
    x_BNTO = torch.randn(2, 3, tokens, 2 * tokens - 1)
    out = skewed(x_BNTO)
    for i in range(tokens):
        for j in range(tokens):
            assert torch.equal(out[..., i, j], x_BNTO[..., i, j - i + tokens - 1])


@pytest.mark.parametrize("head", ["token", "gap"])
def test_relative_attention_is_a_loop_over_pairs_of_tokens(head: str) -> None:
    block = network_of(small(position="relative", head=head)).blocks[1]
    assert isinstance(block, Block)
    assert block.offset_OD is not None
    tokens = 12 + (head == "token")
    assert block.offset_OD.shape == (2 * tokens - 1, 16)
    x_TD = torch.randn(tokens, 16)
    query_TD = block.qkv(block.norm1(x_TD))[:, :16]
    bias_NTT = torch.empty(2, tokens, tokens)
    for i in range(tokens):
        for j in range(tokens):
            key_D = block.offset_OD[i - j + tokens - 1]
            for n, (q_d, k_d) in enumerate(zip(query_TD[i].chunk(2), key_D.chunk(2), strict=True)):
                bias_NTT[n, i, j] = q_d @ k_d / math.sqrt(8)
    torch.testing.assert_close(block(x_TD[None])[0], mixed(block, x_TD, bias_NTT), rtol=1e-4, atol=1e-5)


def test_the_gradient_of_relative_positions_is_right() -> None:
    q_BNTd = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    offset_OD = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(relative_bias, (q_BNTd, offset_OD))


# -------------------------------------------------------------------------------------------- axial attention, heads


def test_axial_attention_is_a_loop_over_rows_and_then_over_columns() -> None:
    block = network_of(small(attention="axial")).blocks[0]
    assert isinstance(block, AxialBlock)
    x_HWD = torch.randn(*GRID, 16)
    rows_HWD = torch.stack([mixed(block.rows, x_HWD[row]) for row in range(3)])
    expected_HWD = torch.stack([mixed(block.columns, rows_HWD[:, column]) for column in range(4)], dim=1)
    found_BTD = block(x_HWD.flatten(0, 1)[None])
    torch.testing.assert_close(found_BTD[0], expected_HWD.flatten(0, 1), rtol=1e-4, atol=1e-5)


def test_the_gradient_through_axial_attention_is_right() -> None:
    model = ViT(patch=1, width=4, depth=1, mlp=4, heads=2, head="gap", attention="axial", position="none")
    network = build(model, image_size=(2, 3), channels=1, classes=2, seed=0).double()
    block = network.get_submodule("blocks.0")
    assert torch.autograd.gradcheck(block, torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True))


def test_attention_pooling_is_torchs_multi_head_attention_with_a_learned_query() -> None:
    network = network_of(small(head="map"))
    pool = network.pool
    assert isinstance(pool, AttentionPool)
    reference = nn.MultiheadAttention(16, 2, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([pool.q.weight, pool.kv.weight]))
        reference.in_proj_bias.copy_(torch.cat([pool.q.bias, pool.kv.bias]))
        reference.out_proj.weight.copy_(pool.out.weight)
        reference.out_proj.bias.copy_(pool.out.bias)
    x_BTD = torch.randn(3, 12, 16)
    y_B1D, _ = reference(pool.probe_1D.expand(3, 1, 16), x_BTD, x_BTD)
    hidden = functional.gelu(pool.mlp1(pool.norm(y_B1D)), approximate="tanh")
    expected_BD = (y_B1D + pool.mlp2(hidden))[:, 0]
    torch.testing.assert_close(pool(x_BTD), expected_BD, rtol=1e-4, atol=1e-5)
    image = image_of()
    torch.testing.assert_close(network.features(image), pool(network.norm(network.encoded(network.embedded(image)))))


def test_first_values_of_what_the_papers_add_have_the_spread_of_the_released_code() -> None:
    size = {"width": 256, "mlp": 512, "heads": 4, "patch": 4, "depth": 1}
    model = small(**size, head="map", code="big-vision")
    network = build(model, image_size=32, channels=3, classes=10, seed=0)
    assert isinstance(network, VisionTransformer)
    pool = network.pool
    assert pool is not None
    assert network.position_TD is not None
    spreads = {
        network.position_TD: 256**-0.5,
        pool.probe_1D: math.sqrt(2 / (1 + 256)),
        pool.q.weight: math.sqrt(2 / (256 + 256)),
        pool.kv.weight: math.sqrt(2 / (256 + 256)),  # keys and values each on their own
        pool.out.weight: math.sqrt(2 / (256 + 256)),
        pool.mlp1.weight: math.sqrt(2 / (256 + 512)),
        pool.mlp2.bias: 1e-6,
    }
    for parameter, std in spreads.items():
        assert float(parameter.detach().std()) == pytest.approx(std, rel=0.1)
    for bias in (pool.q.bias, pool.kv.bias, pool.out.bias):
        assert not bias.any()


# -------------------------------------------------------------------------------------- dropout and stochastic depth


@pytest.mark.parametrize("model", [small(), small(attention="axial")], ids=["global", "axial"])
def test_the_chance_to_skip_grows_from_zero_at_the_first_block_to_the_given_at_the_last(model: ViT) -> None:
    network = blueprint(model, image_size=(6, 8), channels=1, classes=5, stochastic_depth=0.4)
    skips = {name: module.share for name, module in network.named_modules() if isinstance(module, StochasticDepth)}
    parts = ("",) if model.attention == "global" else (".rows", ".columns")
    assert skips == {f"blocks.{index}{part}.skip": share for index, share in ((1, 0.2), (2, 0.4)) for part in parts}


def test_a_skipped_branch_is_left_out_of_whole_examples_and_larger_in_the_others() -> None:
    skip = StochasticDepth(0.25).train()
    torch.manual_seed(0)
    ratio_BTD = skip(torch.full((4000, 2, 3), 7.0)) / 7
    of_example_B = ratio_BTD[:, 0, 0]
    assert torch.equal(ratio_BTD, of_example_B[:, None, None].expand_as(ratio_BTD))
    assert sorted(set(of_example_B.tolist())) == pytest.approx([0, 4 / 3])
    assert float(of_example_B.mean()) == pytest.approx(1, abs=0.03)
    x = torch.randn(3, 2, 2)
    assert skip.eval()(x) is x


def test_an_example_skips_both_halves_of_an_axial_block_as_one_image() -> None:
    network = network_of(small(attention="axial", depth=2), stochastic_depth=0.9)
    block = network.train().blocks[1]
    x_BTD = torch.randn(64, 12, 16)
    torch.manual_seed(1)
    out_BTD = block(x_BTD)
    untouched_BT = (out_BTD == x_BTD).all(dim=-1)
    assert torch.equal(untouched_BT.all(dim=-1), untouched_BT.any(dim=-1)), "a row of an image was skipped alone"
    assert bool(untouched_BT.any())
    assert not bool(untouched_BT.all())


def test_no_dropout_and_no_stochastic_depth_leave_no_trace_in_the_network() -> None:
    network = blueprint(small(attention="axial"), image_size=(6, 8), channels=1, classes=5)
    assert not [module for module in network.modules() if isinstance(module, nn.Dropout | StochasticDepth)]


@pytest.mark.parametrize(("attention", "per_block"), [("global", 3), ("axial", 6)])
def test_dropout_acts_after_each_dense_layer_but_queries_keys_and_values_and_once_after_positions(
    attention: str, per_block: int
) -> None:
    network = network_of(small(attention=attention, depth=2), dropout=0.5)
    seen = []
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(image_of())
    assert len(seen) == 1 + 2 * per_block


def test_a_stochastic_depth_without_effect_is_refused() -> None:
    with pytest.raises(ValueError, match="no effect on a single block"):
        blueprint(small(depth=1), image_size=(6, 8), channels=1, classes=5, stochastic_depth=0.1)
