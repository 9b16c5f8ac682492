"""The experiment file: what is taken, and how each fault is told."""

import contextlib
import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from operandi.errors import ExperimentError, GeometryError
from operandi.experiment import DEFAULT_WINDOWS, Experiment
from operandi.experiment_file import example_yaml, identity, load_experiment, parse_experiment

MINIMAL = """\
sample:
  name: cell
geometry:
  poni: a.poni
integration:
  q_min_inv_angstrom: 1.0
  q_max_inv_angstrom: 5.2
scan:
  sets: 10
  rotations_per_set: 30
  translations: 60
  translation_start_mm: -3
  translation_stop_mm: 3
  exposure_s: 0.1
"""


def faults(text: str | bytes) -> list[str]:
    with pytest.raises(ExperimentError) as caught:
        parse_experiment(text, name="cell.yml")
    return str(caught.value).splitlines()


def fault(text: str | bytes) -> str:
    found = faults(text)
    assert len(found) == 1, found
    return found[0]


def with_line(after: str, line: str) -> str:
    return MINIMAL.replace(after + "\n", after + "\n" + line + "\n")


def test_the_example_is_a_valid_experiment():
    experiment = parse_experiment(example_yaml())
    assert experiment.scan.sets == 10
    assert [c.name for c in experiment.composites] == ["cathode", "anode"]


def test_what_the_example_comments_out_is_valid_too():
    text = re.sub(r"^( *)# (?=[ a-z-]*[a-z_]+:|  )", r"\1", example_yaml().split("sample:", 1)[1], flags=re.MULTILINE)
    experiment = parse_experiment("sample:" + text.replace("[graphite]", "[graphite]").replace("[LiC6]", "[]").replace("[LiC12]", "[]"))
    assert [w.phase for w in experiment.windows] == ["graphite"]
    assert experiment.scan.keys.image == "pilatus"
    assert experiment.integration.dark is not None


def test_paths_are_taken_from_the_folder_of_the_file(tmp_path: Path):
    file = tmp_path / "cell.yml"
    file.write_text(MINIMAL + "potentiostat:\n  file: /logs/a.mpt\n")
    experiment = load_experiment(file)
    assert experiment.geometry.poni == tmp_path / "a.poni"
    assert experiment.publishing.storage == tmp_path / "data"
    assert experiment.potentiostat is not None
    assert experiment.potentiostat.file == Path("/logs/a.mpt")


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(ExperimentError, match="operandi init"):
        load_experiment(tmp_path / "none.yml")


def test_omitted_windows_are_the_default_ones_inside_the_q_range():
    phases = [w.phase for w in parse_experiment(MINIMAL).windows]
    assert phases == [w.phase for w in DEFAULT_WINDOWS if w.phase != "silicon"]
    saxs = parse_experiment(MINIMAL.replace("1.0", "0.01").replace("5.2", "0.3"))
    assert [w.phase for w in saxs.windows] == ["silicon"]
    assert saxs.composites == ()


def test_omitted_windows_leave_room_for_their_background():
    assert parse_experiment(MINIMAL.replace("1.0", "1.49").replace("5.2", "1.95")).windows[0].phase == "LiC6"


def test_a_q_range_without_any_window_is_refused():
    assert "name at least one map" in fault(MINIMAL.replace("5.2", "1.2"))
    assert "name at least one map" in fault(MINIMAL + "windows: []\n")


def test_omitted_composites_are_those_whose_phases_have_windows():
    only_anode = parse_experiment(MINIMAL.replace("5.2", "2.0"))
    assert [c.name for c in only_anode.composites] == ["anode"]


def test_an_unknown_key_is_refused_with_the_nearest_right_one():
    message = fault(with_line("  sets: 10", "  rotation_per_set: 30"))
    assert message == "cell.yml:10: scan.rotation_per_set: is not known; did you mean 'rotations_per_set'?"


def test_a_key_in_the_wrong_section_is_told_where_it_belongs():
    assert "move it to scan" in fault(MINIMAL + "exposure_s: 0.1\n")
    assert "'scan.exposure_s'" in fault(MINIMAL + "exposure: 0.1\n")


def test_every_fault_is_told_at_once_in_the_order_of_lines():
    text = MINIMAL.replace("sets: 10", "sets: none").replace("  name: cell\n", "  label: cell\n").replace("poni: a.poni", "poni: [a]")
    found = faults(text)
    assert [line.split(": ")[0] for line in found] == ["cell.yml:1", "cell.yml:2", "cell.yml:4", "cell.yml:9"]
    assert [line.split(": ")[1] for line in found] == ["sample.name", "sample.label", "geometry.poni", "scan.sets"]


def test_a_key_that_stands_twice_is_refused_with_both_lines():
    assert fault(with_line("  sets: 10", "  sets: 11")) == "cell.yml:10: scan.sets: stands already in line 9; keep one of the two"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "cell.yml:1: is empty"),
        ("# nothing but a comment\n", "cell.yml:1: is empty"),
        ("- a\n- b\n", "cell.yml:1: is a sequence"),
        ("just text", "cell.yml:1: is a scalar"),
        ("sample:\n\tname: cell\n", "cell.yml:2: not YAML: a tab"),
        ("sample: {name: cell\ngeometry:\n", "not YAML"),
        ("a: 1\n---\nb: 2\n", "not YAML"),
        ("sample: !!python/object:os.system {}\n", "cell.yml:1: could not determine a constructor"),
        ("sample: 2026-13-45\n", "put it in quotes"),
        ("sample: !!bool maybe\n", "put it in quotes"),
        ("a: \x00\n", "cell.yml:1: holds the control character #x0000"),
        ("[" * 2000, "nested too deeply"),
        ("sample:\n  name: cell-Å\n".encode("latin-1"), "cell.yml:2: byte 0xc5 is not UTF-8"),
        ("sample:\n".encode("utf-16"), "cell.yml:1: byte 0xff is not UTF-8"),
        ("? [a]\n: b\n", "cell.yml:1"),
    ],
)
def test_what_is_no_experiment_file_is_refused_in_one_line(text, expected):
    assert expected in fault(text)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: cell", "name: 17", "by putting it in quotes"),
        ("name: cell", 'name: ""', "at least 1 character"),
        ("sets: 10", "sets: yes", "switch true"),
        ("sets: 10", "sets: 0", "greater than or equal to 1"),
        ("sets: 10", "sets: 1.5", "scan.sets"),
        ("sets: 10", "sets:", "not nothing"),
        ("exposure_s: 0.1", "exposure_s: .nan", "finite"),
        ("exposure_s: 0.1", "exposure_s: .inf", "finite"),
        ("q_max_inv_angstrom: 5.2", "q_max_inv_angstrom: 0.5", "must be above"),
        ("translation_stop_mm: 3", "translation_stop_mm: -3", "would not travel"),
        ("sets: 10", "sets: 1", "window_sets is 2"),
        ("sets: 10", "sets: 10\n  travel: alternate", "to 'alternating'"),
        ("sample:\n  name: cell", "sample: cell", "fields of its own"),
        ("sets: 10", "sets: 10\n  keys:\n    3: a", "scan.keys"),
        ("poni: a.poni", "poni: 3", "should be a path"),
    ],
)
def test_a_wrong_value_is_refused_with_its_remedy(old, new, expected):
    assert expected in fault(MINIMAL.replace(old, new))


def test_a_wrong_time_zone_is_refused_with_its_line():
    message = fault(MINIMAL + "potentiostat:\n  file: a.mpt\n  timezone: Europe/Pariss\n")
    assert message.startswith("cell.yml:17: potentiostat.timezone:")


def test_phases_and_pictures_are_named_once():
    window = "  - {phase: a, q_min_inv_angstrom: 1.1, q_max_inv_angstrom: 1.2}\n"
    assert "windows name a twice" in fault(MINIMAL + "windows:\n" + window + window)
    picture = "  - {name: p, red: [a]}\n"
    assert "composites name p twice" in fault(MINIMAL + "windows:\n" + window + "composites:\n" + picture + picture)
    assert "no window defines" in fault(MINIMAL + "windows:\n" + window + "composites:\n  - {name: p, red: [b]}\n")


def test_a_fault_in_a_list_is_told_with_its_place_counted_from_one():
    message = fault(MINIMAL + "windows:\n  - phase: a\n    q_min_inv_angstrom: 1.1\n")
    assert message.startswith("cell.yml:16: windows[1].q_max_inv_angstrom: is missing")


def test_anchors_and_merges_are_plain_yaml():
    text = MINIMAL + "windows:\n  - &first {phase: a, q_min_inv_angstrom: 1.1, q_max_inv_angstrom: 1.2}\n  - {<<: *first, phase: b}\n"
    assert [w.q_max_inv_angstrom for w in parse_experiment(text).windows] == [1.2, 1.2]


@given(st.text() | st.binary())
def test_whatever_the_bytes_are_the_answer_is_an_experiment_or_an_experiment_error(content):
    with pytest.raises(ExperimentError):
        parse_experiment(content)


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=5),
    st.sampled_from([(s, f) for s, model in Experiment.model_fields.items() for f in getattr(model.annotation, "model_fields", {})]),
)
def test_whatever_a_field_holds_the_answer_is_an_experiment_or_an_experiment_error(value, place):
    content = yaml.safe_load(MINIMAL)
    content.setdefault(place[0], {})[place[1]] = value
    with contextlib.suppress(ExperimentError):
        parse_experiment(yaml.safe_dump(content, allow_unicode=True))


def test_identity_depends_on_what_files_hold_and_not_on_where_they_lie(tmp_path: Path):
    for folder, poni in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.poni").write_text(poni)
        (tmp_path / folder / "cell.yml").write_text(MINIMAL)
    one, same, other = (identity(load_experiment(tmp_path / folder / "cell.yml")) for folder in "abc")
    assert json.loads(json.dumps(one)) == one
    assert one["poni_sha256"] == hashlib.sha256(b"one").hexdigest()
    assert one == same
    assert one != other


def test_identity_leaves_out_publishing_and_holds_the_numbers(tmp_path: Path):
    (tmp_path / "a.poni").write_text("poni")
    plain = identity(parse_experiment(MINIMAL, folder=tmp_path))
    described = MINIMAL.replace("name: cell", "name: cell\n  description: text") + "publishing:\n  storage: elsewhere\n"
    assert identity(parse_experiment(described, folder=tmp_path)) == plain
    assert identity(parse_experiment(MINIMAL.replace("5.2", "5.1"), folder=tmp_path)) != plain


def test_identity_without_the_calibration_names_the_field(tmp_path: Path):
    with pytest.raises(GeometryError, match=re.escape("geometry.poni")):
        identity(parse_experiment(MINIMAL, folder=tmp_path))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("backlash_mm: atuo", "cell.yml:10: scan.backlash_mm: is 'atuo'; write a number of mm, or auto"),
        ("backlash_mm: .inf", "cell.yml:10: scan.backlash_mm: is inf; write a number of mm, or auto"),
        ("backlash_mm: [1]", "cell.yml:10: scan.backlash_mm: is [1]; write a number of mm, or auto"),
        ("order: bitreversed", "correct it to 'bit-reversed'"),
        ("sets_by: key", "keys.set names no data key"),
        ("order: golden\n  inner: rotation", "make it bit-reversed"),
        ("backlash_mm: 0.02\n  travel: forward", "here none does"),
        ("backlash_mm: auto\n  inner: rotation", "here none does"),
    ],
)
def test_a_scan_that_cannot_be_measured_as_it_says_is_refused(line, expected):
    assert expected in fault(with_line("  sets: 10", "  " + line))


@pytest.mark.parametrize(
    "line",
    [
        "backlash_mm: -0.02",
        "backlash_mm: auto",
        "order: golden",
        "sets_by: key\n  keys: {set: pass}",
        "inner: rotation\n  order: bit-reversed",
    ],
)
def test_scans_of_every_order_are_taken(line):
    assert parse_experiment(with_line("  sets: 10", "  " + line)).scan.sets == 10


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("potentiostat: {timezone: UTC}", "give either the file of the log, or the stream"),
        ("potentiostat: {file: a.mpt, stream: cell}", "give either the file of the log, or the stream"),
        ("potentiostat: {stream: cell, keys: {current: null}}", "neither a current nor a charge"),
        ("potentiostat: {file: a.mpt, clock_offset_s: marker}", "clock_key names no data key"),
        ("potentiostat: {stream: cell, clock_offset_s: voltage, clock_key: v}", "has the beamline's clock"),
        ("potentiostat: {file: a.mpt, clock_offset_s: markers}", "write a number of seconds, or marker, voltage or current"),
        ("potentiostat: {file: a.mpt, columns: {tension: E}}", "potentiostat.columns"),
        ("potentiostat: {file: a.mpt, start: 2026-11-22 14:03:07}", "by putting it in quotes"),
        ("guardian: {voltage_min_v: 4.3}", "voltage_max_v must be above voltage_min_v"),
        ("guardian: {beam_fraction: 1.0}", "less than 1"),
        ("publishing: {webhook: my-secret-place}", "is no address of the web"),
    ],
)
def test_a_clock_a_guardian_or_an_address_that_makes_no_sense_is_refused(section, expected):
    assert expected in fault(MINIMAL + section + "\n")


@pytest.mark.parametrize(
    "section",
    [
        "potentiostat: {file: a.csv, start: '2026-11-22 14:03:07', columns: {voltage: U}, units: {voltage: mV}}",
        "potentiostat: {file: a.mpt, clock_offset_s: marker, clock_key: pulse, marker_falls: true}",
        "potentiostat: {stream: cell, keys: {charge: q, current: null}, units: {charge: mAh}}",
        "guardian: {accident_mah: null, voltage_max_v: null, voltage_min_v: 5}",
    ],
)
def test_every_way_to_a_log_and_its_clock_is_taken(section):
    assert parse_experiment(MINIMAL + section + "\n").scan.sets == 10


def test_the_address_of_the_webhook_is_shown_nowhere(tmp_path: Path):
    (tmp_path / "a.poni").write_text("poni")
    address = "https://example.org/hook/my-secret-place"
    experiment = parse_experiment(MINIMAL + f"publishing: {{webhook: '{address}'}}\n", folder=tmp_path)
    assert experiment.publishing.webhook is not None
    assert experiment.publishing.webhook.get_secret_value() == address
    shown = repr(experiment) + str(experiment) + experiment.model_dump_json() + json.dumps(identity(experiment))
    assert "my-secret-place" not in shown
    assert "my-secret" not in fault(MINIMAL + "publishing: {webhook: my-secret-place}\n")


def test_identity_leaves_out_the_guardian(tmp_path: Path):
    (tmp_path / "a.poni").write_text("poni")
    plain = identity(parse_experiment(MINIMAL, folder=tmp_path))
    assert identity(parse_experiment(MINIMAL + "guardian: {expected: charge}\n", folder=tmp_path)) == plain


@pytest.mark.parametrize(
    ("subtract", "said"),
    [
        ("{phase: nowhere}", "subtracts 'nowhere', which is no other window"),
        ("{phase: a}", "subtracts 'a', which is no other window"),
        ("{phase: b, ratio: much}", "'much'; write a number from 0 on, or derived"),
        ("{phase: b, ratio: -1}", "greater than or equal to 0"),
        ("{phase: b, ratio: .nan}", "write a number from 0 on, or derived"),
        ("{ratio: 1}", "phase"),
    ],
)
def test_a_subtraction_that_makes_no_sense_is_refused(subtract: str, said: str):
    windows = "windows:\n  - {phase: a, q_min_inv_angstrom: 1.7, q_max_inv_angstrom: 1.8, subtract: [%s]}\n"
    windows += "  - {phase: b, q_min_inv_angstrom: 2.0, q_max_inv_angstrom: 2.1}\n"
    with pytest.raises(ExperimentError, match=re.escape(said)):
        parse_experiment(MINIMAL + windows % subtract)


@pytest.mark.parametrize(
    ("corrections", "expected"),
    [
        ("{air: measured}", "measured_air names no pattern"),
        ("{air: measured, measured_air: {file: a.csv}}", "must say the flux behind its file"),
        ("{air: measured, monitor: false, measured_air: {file: a.csv, monitor: 5.0}}", "leave its monitor out"),
        ("{air: measured, measured_air: {file: a.csv, result: b, monitor: 5.0}}", "give one of them"),
        ("{air: measured, measured_air: {result: b, monitor: 5.0}}", "a result has its own"),
        ("{monitor: false, monitor_reference: 5.0}", "make monitor true"),
    ],
)
def test_air_that_does_not_fit_together_is_refused_with_the_remedy(corrections: str, expected: str):
    assert expected in fault(MINIMAL + f"corrections: {corrections}\n")


def test_the_identity_holds_what_the_file_of_air_holds(tmp_path: Path):
    text = MINIMAL + "corrections: {air: measured, measured_air: {file: a.csv, monitor: 5.0}}\n"
    (tmp_path / "a.poni").write_text("poni")
    (tmp_path / "a.csv").write_text("air")
    experiment = parse_experiment(text, folder=tmp_path)
    assert experiment.corrections.measured_air is not None
    assert experiment.corrections.measured_air.file == tmp_path / "a.csv"
    assert identity(experiment)["measured_air_sha256"] == hashlib.sha256(b"air").hexdigest()
