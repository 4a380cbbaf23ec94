"""Inter-scale mixing: what comes from where, gradients to both, and probabilities at 0, at 1 and in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from anyres.data.patches import PatchLaw, PatchSampler, TwoSizeSampler
from anyres.data.store import Store
from anyres.networks import Scene, build_generator
from anyres.params import Train
from anyres.plane.window import Window
from anyres.training import steps
from anyres.training.loop import fake_scene, training_loop
from anyres.training.microbatch import MicroBatch, RealBatchPair, mixes
from anyres.training.mixing import Mix
from anyres.training.state import TrainState
from anyres.training.steps import mix_styles

PAIRS = {"ratio": 1.5, "share": 1.0, "large_share": 0.5, "cutmix": True, "channelmix": True, "mix_reals": True, "l1": 0.0}


def pictures(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat pictures: 0 and up small, 100 and up large, so that every pixel tells where it is from."""
    values = torch.arange(count * 3.0).reshape(count, 3, 1, 1)
    return values.expand(-1, -1, 16, 24).clone(), (values + 100).expand(-1, -1, 24, 36).clone()


def test_boxes_and_channels_come_from_the_other_size() -> None:
    small, large = pictures(400)
    mix = Mix.draw(400, torch.Generator().manual_seed(0))
    mixed_small, mixed_large = mix(small, large)
    taken_small, taken_large = (mixed_small - small > 50), (mixed_large - large < -50)
    # Nothing but the one or the other, each in its own channel.
    torch.testing.assert_close(mixed_small, torch.where(taken_small, small + 100, small))
    torch.testing.assert_close(mixed_large, torch.where(taken_large, large - 100, large))
    # A channel that is taken is taken at both sizes, whole; of the others one box.
    whole = taken_small.all(dim=(2, 3))
    assert torch.equal(mix.channels & ~whole, torch.zeros_like(whole))
    assert taken_large.all(dim=(2, 3))[mix.channels].all()
    assert abs(mix.channels.float().mean().item() - 0.5) < 0.05
    for taken, channels in ((taken_small, mix.channels), (taken_large, mix.channels)):
        boxes = taken[~channels.any(dim=1)][:, 0]
        rows, columns = boxes.any(dim=2), boxes.any(dim=1)
        assert torch.equal(boxes, rows[:, :, None] & columns[:, None, :])
        # Between two uniform cuts lies a third of a side, so a ninth of the picture.
        assert abs(boxes.float().mean().item() - 1 / 9) < 0.03
    assert not torch.equal(*mix.boxes)


def test_each_kind_of_mixing_can_be_left_out() -> None:
    small, large = pictures()
    generator = torch.Generator().manual_seed(0)
    nothing = Mix.draw(6, generator, cutmix=False, channelmix=False)(small, large)
    assert torch.equal(nothing[0], small)
    assert torch.equal(nothing[1], large)
    boxes = Mix.draw(6, generator, channelmix=False)
    assert not boxes.channels.any()
    channels = Mix.draw(60, generator, cutmix=False)
    assert not any(box.any() for box in channels.boxes)
    assert channels.channels.any()


def test_gradients_reach_both_sizes() -> None:
    small, large = (part.requires_grad_() for part in pictures())
    mixed = Mix.draw(6, torch.Generator().manual_seed(3))(small, large)
    (mixed[0].square().sum() + mixed[1].square().sum()).backward()
    for part in (small, large):
        assert part.grad is not None
        assert (part.grad != 0).any(dim=1).float().mean() > 0.5


@pytest.fixture(scope="module")
def sampler(store: Store) -> PatchSampler:
    return PatchSampler(store, PatchLaw((16, 24), 4.0, "log_uniform", 0.5, reach=1.5), seed=5)


@pytest.mark.parametrize(("share", "large_share"), [(0.0, 0.0), (1.0, 0.5), (0.3, 1.0), (0.3, 0.4), (0.0, 0.4)])
def test_sizes_are_drawn_with_their_probabilities(sampler: PatchSampler, share: float, large_share: float) -> None:
    two = TwoSizeSampler(sampler, 8, (24, 36), share, large_share, begins=800)
    found = [two.sizes(8 * step) for step in range(2000)]
    early, late = found[:100], np.array(found[100:])
    assert (True, True) not in early
    assert (late.all(axis=1).mean(), late[~late.all(axis=1)][:, 1].mean() if share < 1 else large_share) == pytest.approx(
        (share, large_share), abs=0.04
    )
    if share in (0.0, 1.0):
        assert late.all(axis=1).mean() == share
    assert late.any(axis=1).all()
    # One law for a whole batch, wherever a process begins.
    assert all(two.sizes(8 * step) == two.sizes(8 * step + 5) for step in range(50))


def test_a_pair_shows_the_same_windows_at_both_sizes(sampler: PatchSampler) -> None:
    """Real pictures and windows agree by extent, and by their pixels: the large brought down is the small."""
    pair = TwoSizeSampler(sampler, 8, (24, 36), 1.0, 0.5).batch(16, 8)
    (small, small_at), (large, large_at) = pair
    assert (small.shape, large.shape) == ((8, 16, 24, 3), (8, 24, 36, 3))
    for a, b in zip(small_at, large_at, strict=True):
        assert a.center == b.center
        assert a.extent == pytest.approx(b.extent)
        assert a.period == pytest.approx(1.5 * b.period)
    down = torch.nn.functional.interpolate(
        torch.from_numpy(large).permute(0, 3, 1, 2).float(), size=(16, 24), mode="bilinear", antialias=True
    )
    assert (down - torch.from_numpy(small).permute(0, 3, 1, 2)).abs().mean() < 6
    assert np.array_equal(small, sampler.batch(16, 8)[0])
    assert len(sampler.usable) == 3


def test_windows_of_pairs_never_upsample(store: Store) -> None:
    reaching = PatchSampler(store, PatchLaw((16, 24), 64.0, "uniform_extent", 0.5, reach=1.5), seed=5)
    for n in range(200):
        draw = reaching.draw(n)
        assert draw.window.period / 1.5 >= store.frame(draw.picture).period * (1 - 1e-9)


def paired(tiny: Train, **pairs: object) -> Train:
    return Train.model_validate(tiny.model_dump() | {"pairs": PAIRS | pairs, "kimg": 0.016})


def batch(params: Train) -> RealBatchPair:
    windows = [Window((0.02 * n, 0.0), 1 / 16, (16, 24)) for n in range(params.batch)]
    torch.manual_seed(0)
    return (
        (torch.rand(params.batch, 3, 16, 24) * 2 - 1, windows),
        (torch.rand(params.batch, 3, 24, 36) * 2 - 1, [window.resized((24, 36)) for window in windows]),
    )


def test_a_pair_trains_as_one_step_with_penalties_on_unmixed_pictures(tiny: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    values = tiny.model_dump()
    values["loss"] |= {"style_mixing": 0.9, "path_length": 2.0, "path_every": 2, "penalty_every": 1}
    params = paired(Train.model_validate(values))
    state = TrainState.fresh(params, (1.5, 1.0), torch.device("cpu"))
    penalised, scenes = [], []
    penalties = steps.gradient_penalties

    def noted(parts: list[torch.Tensor], logits: list[torch.Tensor]) -> list[torch.Tensor]:
        penalised.extend(part.detach() for part in parts)
        return penalties(parts, logits)

    monkeypatch.setattr(steps, "gradient_penalties", noted)
    state.g.register_forward_pre_hook(lambda module, args: scenes.append(args[0]))
    ready = batch(params)
    reports = list(training_loop(state, params, [ready, ready], Accelerator(cpu=True)))
    assert [report.nimg for report in reports] == [8, 16]
    assert all(torch.isfinite(value) for report in reports for value in report.values.values())
    # R1 and R2 of both sizes, twice; what R1 saw is the data as it is.
    assert len(penalised) == 8
    assert torch.equal(penalised[0], ready[0][0])
    assert torch.equal(penalised[2], ready[1][0])
    # Both sizes of a pair draw one scene, with one choice of styles and one seed of fields.
    for small, large in (scenes[:2], scenes[2:4]):
        assert torch.equal(small.z, large.z)
        assert torch.equal(small.w, large.w)
        assert torch.equal(small.seeds, large.seeds)
    assert ["penalty/path" in report.values for report in reports] == [True, False]
    assert state.path_mean > 0


def test_a_pair_stopped_half_way_goes_on_as_if_it_had_not_been(tiny: Train, tmp_path: Path) -> None:
    values = tiny.model_dump()
    values["loss"] |= {"style_mixing": 0.5, "path_length": 2.0, "path_every": 1}
    params = paired(Train.model_validate(values))
    accelerator = Accelerator(cpu=True)
    through, state = (TrainState.fresh(params, (1.5, 1.0), torch.device("cpu")) for _ in range(2))
    list(training_loop(through, params, [batch(params)] * 2, accelerator))
    next(iter(training_loop(state, params, [batch(params)], accelerator)))
    state.save(tmp_path / "half.safetensors")
    again = TrainState.fresh(params, (1.5, 1.0), torch.device("cpu"))
    again.load(tmp_path / "half.safetensors")
    list(training_loop(again, params, [batch(params)], accelerator))
    assert torch.equal(again.path_mean, through.path_mean)
    for name, value in through.g.state_dict().items():
        assert torch.equal(again.g.state_dict()[name], value), name


@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_styles_are_mixed_with_their_probability(tiny: Train, probability: float) -> None:
    g = build_generator(tiny)
    scene = Scene.of(range(1000), g.z_dim)
    mixed = mix_styles(g, scene, probability)
    if probability == 0:
        assert mixed is scene
        return
    assert mixed.w is not None
    assert mixed.w.shape == (1000, g.num_ws, 10)
    plain = g.mapping(scene.z)
    assert torch.equal(mixed.w[:, 0], plain)
    other = (mixed.w != plain[:, None]).any(dim=2)
    assert other.any(dim=1).float().mean().item() == pytest.approx(probability, abs=0.05)
    # One cut: from it on all layers are of the other latent, and every layer is a cut somewhere.
    assert (other[:, 1:] >= other[:, :-1]).all()
    cuts = (~other).sum(dim=1)[other.any(dim=1)]
    assert set(cuts.tolist()) == set(range(1, g.num_ws))


def test_the_data_of_a_training_bear_its_pairs(tiny: Train, store: Store, tmp_path: Path) -> None:
    from anyres.training.run import train

    values = tiny.model_dump() | {"pairs": PAIRS | {"share": 0.5}, "kimg": 0.064, "zoom_max": 2.0}
    train(Train.model_validate(values), store, tmp_path / "out", tmp_path / "runs", Accelerator(cpu=True))
    assert (tmp_path / "out" / "generator.safetensors").exists()


@pytest.mark.parametrize("mix_reals", [True, False])
def test_the_published_recipe_mixes_generated_pictures_alone(tiny: Train, mix_reals: bool) -> None:
    """Pixel by pixel: what the discriminator sees of both sizes of a pair."""
    params, accelerator = paired(tiny, mix_reals=mix_reals), Accelerator(cpu=True)
    g = TrainState.fresh(params, (1.5, 1.0), torch.device("cpu")).g.requires_grad_(False)
    mixed = mixes(params, 0, accelerator, 2)
    assert mixed is not None
    pair = MicroBatch(list(batch(params)), fake_scene(params, 0, accelerator, g), mixed)
    sizes = steps.make_batches(g, params, accelerator, steps.generate, pair)
    for index, (own, other) in enumerate(zip(sizes, sizes[::-1], strict=True)):
        assert own.mixed
        for mix, pictures_of_own, pictures_of_other, seen in (
            (mixed[0], own.real, other.real, own.d_input_real),
            (mixed[1], own.fake, other.fake, own.d_input_fake),
        ):
            expected = pictures_of_own.clone()
            height, width = expected.shape[2:]
            resized = torch.nn.functional.interpolate(pictures_of_other, (height, width), mode="bilinear", antialias=True)
            for n, channel in np.ndindex(8, 3):
                top, bottom, left, right = mix.boxes[index][n].tolist()
                for row, column in np.ndindex(height, width):
                    y, x = (row + 0.5) / height, (column + 0.5) / width
                    if mix.channels[n, channel] or (top <= y < bottom and left <= x < right):
                        expected[n, channel, row, column] = resized[n, channel, row, column]
            if pictures_of_own is own.real and not mix_reals:
                assert seen is own.real
            else:
                assert torch.equal(seen, expected)
                assert not torch.equal(seen, pictures_of_own)


def test_the_l1_distance_of_a_pair_by_hand(tiny: Train) -> None:
    """The larger picture averaged under triangles, one output pixel after the other; only a pair reports it."""
    generator = torch.Generator().manual_seed(0)
    small, large = (torch.rand(2, 3, height, width, generator=generator) for height, width in ((4, 6), (6, 9)))

    def weights(count: int, wide: int) -> np.ndarray:
        centres = (np.arange(count) + 0.5) * wide / count
        tent = np.maximum(0, 1 - np.abs(np.arange(wide) + 0.5 - centres[:, None]) / (wide / count))
        return tent / tent.sum(axis=1, keepdims=True)

    resized = np.einsum("ij,ncjk,lk->ncil", weights(4, 6), large.numpy(), weights(6, 9))
    assert steps.pair_distance(small, large).item() == pytest.approx(np.abs(resized - small.numpy()).mean(), abs=1e-6)

    params, accelerator = paired(tiny, l1=3.0), Accelerator(cpu=True)
    state = TrainState.fresh(params, (1.5, 1.0), torch.device("cpu"))
    both = batch(params)
    reports = list(training_loop(state, params, [both, both[0]], accelerator))
    assert ["loss/pair" in report.values for report in reports] == [True, False]
    again = TrainState.fresh(params, (1.5, 1.0), torch.device("cpu"))
    scene = fake_scene(params, 0, accelerator, again.g)
    with torch.no_grad():
        fakes = [again.g(scene, windows) for _, windows in both]
    assert reports[0].values["loss/pair"].item() == pytest.approx(3 * steps.pair_distance(*fakes).item(), rel=1e-4)
