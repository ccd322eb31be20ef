#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Shows that the tests bite: plants one fault at a time in a copy of the headers, builds
mutation/quick.cpp (most of the tests as one unit, native instruction set, -O1) and
reports which test caught it.

    tests/mutation/run.py [-j N] [NAME...]

Fails when a fault survives, when the untouched headers do not pass, or when the text to
replace does not stand exactly once in its header (then the header has changed: choose
the line anew). Needs g++ (or CXX), Catch2, xsimd, nlohmann_json. About 20 s of one core a fault.
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COMPILER = os.environ.get("CXX", "g++")
RUN_SECONDS = 240  # a fault may make a loop endless: then it is caught as well

# (name, header, text that stands there once, what replaces it)
FAULTS = [
    ("half_tie_up", "scalar_types.hpp", "(rest == tie && (kept & 1u) != 0u)", "rest == tie"),
    ("bfloat16_tie_up", "scalar_types.hpp", "(bits + 0x7fffu + ((bits >> 16) & 1u))",
     "(bits + 0x8000u)"),
    ("temperature_inverted", "steps/query_components.hpp", "std::sqrt(all / chosen)",
     "std::sqrt(chosen / all)"),
    ("temperature_of_zero", "steps/query_components.hpp", "if (chosen == 0.0) return scale;", ""),
    ("components_of_last_head", "steps/query_components.hpp",
     "if (x <= std::numeric_limits<float>::max()) sum += x;",
     "if (x <= std::numeric_limits<float>::max()) sum = x;"),
    ("scan_without_offset", "steps/label_place.hpp",
     "weights.components[first + c] * part->channel_stride + offset;",
     "weights.components[first + c] * part->channel_stride;"),
    ("scan_rows_forgets_channels", "steps/approximate_scores.hpp",
     "count, tokens, i == 0, logits + t, stride);", "count, tokens, true, logits + t, stride);"),
    ("wrong_channel_of_a_row", "steps/approximate_scores.hpp",
     "strip[c][j] = row[weights.components[i + c]];",
     "strip[c][j] = row[weights.components[i]];"),
    ("group_sum_drops_tail", "kernels/softmax.hpp",
     "first ? simd::splat<Arch>(0.0f) : simd::load_partial<Arch>(out + i, rest);",
     "simd::splat<Arch>(0.0f);"),
    ("state_of_the_first_block_only", "kernels/softmax.hpp",
     "simd::exponential<Arch>(simd::load<Arch>(maximum + i) - offset), total);",
     "simd::exponential<Arch>(simd::load<Arch>(maximum) - offset), total);"),
    ("factor_of_the_first_block", "steps/scanned_tokens.hpp",
     "tokens.factors[h * scan.blocks() + block], first,", "tokens.factors[h * scan.blocks()], first,"),
    ("infinite_logit_hidden", "kernels/softmax.hpp",
     "poison = simd::multiply_add<Arch>(logit, zero, poison);", "poison = zero;"),
    ("infinite_logit_of_a_row_hidden", "kernels/softmax.hpp",
     "sum = sum + simd::multiply_add<Arch>(logit, zero, weight);", "sum = sum + weight;"),
    ("maximum_never_rises", "kernels/softmax.hpp",
     "if (before < block) state[h].maximum = block;",
     "if (before < -1e30f) state[h].maximum = block;"),
    ("underflow_ranks_as_zero", "steps/scanned_tokens.hpp",
     "return !ranked || reached >= least_reliable_weight;", "return true;"),
    ("second_scan_left_out", "detail/sparq_tasks.hpp",
     "if (weights_wanted_) scan_all(g, scratch, false);", ""),
    ("newest_twice", "steps/select_tokens.hpp",
     "chosen[free + i] = static_cast<std::uint32_t>(older + i);",
     "chosen[free + i] = static_cast<std::uint32_t>(older);"),
    ("ties_take_too_many", "kernels/top_k.hpp",
     "std::size_t equal_wanted = equal - surplus;", "std::size_t equal_wanted = equal;"),
    ("top_k_takes_padding", "kernels/top_k.hpp", "((1u << rest) - 1u)", "((2u << rest) - 1u)"),
    ("top_k_forgets_its_bound", "kernels/top_k.hpp",
     "return std::max(threshold.value, bound);", "return threshold.value;"),
    ("no_rescaling", "steps/attend_selected.hpp",
     "detail::multiply_add(sums[c], factors.of_first, added[c] * factors.of_second);",
     "sums[c] + added[c] * factors.of_second;"),
    ("infinite_value_kept", "steps/attend_selected.hpp", "out[c] = y + (y - y);", "out[c] = y;"),
    ("dot_drops_last_column", "kernels/dot_rows.hpp",
     "if (const std::size_t n = width - c; n != 0)", "if (const std::size_t n = width - c; n > 1)"),
    ("block_sums_not_rescaled", "kernels/accumulate_rows.hpp",
     "simd::splat<Arch>(rescale[h]);", "simd::splat<Arch>(1.0f);"),
    ("tail_not_weighted", "steps/tail_estimate.hpp",
     "detail::multiply_add(covered, y[c], (1.0f - covered) * mean[c]);",
     "covered * y[c] + mean[c];"),
    ("tail_for_every_group", "steps/tail_estimate.hpp",
     "(tail == tail_estimate::automatic && group == 1)", "tail == tail_estimate::automatic"),
    ("wrong_checkpoint", "kv_cache.hpp", "(end - 1) / checkpoint_tokens * checkpoint_tokens",
     "end / checkpoint_tokens * checkpoint_tokens"),
    ("strip_left_out", "kv_cache.hpp",
     "std::size_t token = labelled(g, before); token < due;",
     "std::size_t token = labelled(g, before) + detail::label_step<Label>; token < due;"),
    ("open_strip_keeps_codes", "detail/slab_labels.hpp",
     "if (begin < left && begin + code_strip_tokens <= before)", "if (false)"),
    ("sinks_widen_ranges", "detail/slab_labels.hpp",
     "token < code_sinks ? code_sinks - token : 0", "0"),
    ("transpose_drops_columns", "kernels/transpose.hpp",
     "for (std::size_t t = c < whole_width ? whole_tokens : 0; t < tokens; ++t)",
     "for (std::size_t t = whole_tokens; t < tokens; ++t)"),
    ("rewrite_keeps_old_sum", "detail/cell_sums.hpp", "stale_[cell / block_cells] = 1;", ""),
    ("truncate_keeps_old_sum", "detail/cell_sums.hpp",
     "if (cells % block_cells != 0) stale_[cells / block_cells] = 1;", ""),
    ("threads_leave_a_chunk", "detail/run_tasks.hpp",
     "end = first + total * (ith + 1) / nth;", "end = first + total * ith / nth + total / nth;"),
    ("whole_heads_are_shared_again", "detail/run_tasks.hpp",
     "const std::size_t first = whole * parts, total", "const std::size_t first = 0, total"),
    ("ranks_of_a_part_are_left_out", "detail/sparq_tasks.hpp",
     "blocks * (part + 1) / parts", "blocks * part / parts + blocks / parts"),
    ("overlap_allowed", "detail/attention_request.hpp",
     "if (overlaps(q.data(), q.size_bytes(), out.data(), out.size_bytes()))", "if (false)"),
    ("local_beyond_k", "detail/attention_request.hpp", "if (params.local > params.k)",
     "if (params.local > params.k + 1)"),
    ("h2o_forgets_the_forced", "detail/h2o_call.hpp",
     "const std::size_t newest = std::min(params_.local + 1, seq_len);",
     "const std::size_t newest = std::min(params_.local, seq_len);"),
    ("quest_page_restarts", "baselines/quest.hpp", "if (begin % quest_page_tokens == 0) {",
     "if (true) {"),
    ("overlapping_ranges", "strided_kv.hpp", "range.begin < end || ", ""),
    ("closed_strip_keeps_code_rows", "detail/code_row_book.hpp",
     "? std::min(now.closed, done_[g].closed)", "? now.closed"),
    ("squares_after_truncate", "detail/code_row_book.hpp",
     "heads_[g].value_squares = squares_[n / block_tokens * heads_kv_ + g];",
     "heads_[g].value_squares = 0.0;"),
    ("width_not_squared", "detail/channel_sums.hpp", "+= n * width * width;", "+= n * width;"),
    ("closed_strip_forgets_keys", "detail/channel_book.hpp",
     "closed_sums_[g].take_keys(all);", ""),
    ("sums_not_restored", "detail/channel_book.hpp",
     "closed_sums_[g].restore(saved(g, token), token);", ""),
    ("far_keys_cut_off", "kernels/encode_codes.hpp",
     "m.greatest[c] - m.least[c] > codes * int2_reach * deviation", "false"),
    ("values_not_dithered", "detail/code_row_writer.hpp",
     "code_row + layout_.value_codes, dither));", "code_row + layout_.value_codes));"),
    ("rows_of_8_bits_not_dithered", "detail/row_kernels.hpp",
     "encode_int8_row<Arch>(from, n, to, kernels::token_dither(token));",
     "encode_int8_row<Arch>(from, n, to);"),
    ("minima_of_values_left_out", "kernels/int8_rows.hpp",
     "sum = simd::multiply_add<Arch>(weight, simd::load<Arch>(block.minimum + j), sum);", ""),
    ("rounding_of_rows_not_expected", "detail/tiered_head.hpp",
     "this->add_row_noise(certain_picks_);", "static_cast<void>(0);"),
    ("tail_weighs_what_was_read", "detail/tiered_outputs.hpp",
     "std::max(0.0, s_.scanned[h].p - mix.seen.p)", "s_.scanned[h].p"),
    ("newest_scanned_too", "detail/tiered_reads.hpp",
     "for (std::size_t t = newest_; t < scanned_; ++t) forget_scanned(t);", ""),
    ("drawn_not_weighted", "kernels/listed_weights.hpp",
     " * scale / simd::maximum<Arch>(tiny, share);", " * scale;"),
    ("codes_made_anew_not_measured", "detail/channel_book.hpp",
     "std::min(from, now.closed); sound < done.closed", "now.closed; sound < done.closed"),
    ("unread_channels_left_out", "steps/tiers/scan_channels.hpp",
     "choice.unread[h] = detail::multiply_add(-query[c], known.mean[c], choice.unread[h]);", ""),
    ("certain_ones_drawn_again", "kernels/token_draws.hpp",
     "count.drawn += !is_certain;", "++count.drawn;"),
]


def plant(headers, fault):
    """Replaces the text; returns why it could not."""
    name, header, old, new = fault
    path = headers / "sparq" / header
    text = path.read_text()
    if text.count(old) != 1:
        return f"{name}: the text stands {text.count(old)} times in {header}: {old}"
    path.write_text(text.replace(old, new))
    return None


def try_fault(fault):
    """Builds and runs the tests over faulty headers: (outcome, detail, seconds)."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sparq_mutation_") as folder:
        headers = pathlib.Path(folder) / "include"
        shutil.copytree(ROOT / "include", headers)
        if fault is not None:
            trouble = plant(headers, fault)
            if trouble:
                return "error", trouble, 0
        program = str(pathlib.Path(folder) / "quick")
        build = subprocess.run(
            [COMPILER, "-std=c++20", "-O1", "-march=native", f"-I{headers}", "-DSPARQ_TEST_QUICK",
             "-DSPARQ_TEST_FEW_TYPES", f'-DSPARQ_TEST_DATA="{ROOT / "tests/data"}"',
             f'-DSPARQ_EXAMPLE_DATA="{ROOT / "examples/data"}"', str(HERE / "quick.cpp"), "-lCatch2WithMain", "-pthread",
             "-o", program], capture_output=True, text=True)
        if build.returncode != 0:
            return "error", "does not compile:\n" + build.stderr[:2000], 0
        try:
            run = subprocess.run([program, "--reporter", "compact"], capture_output=True,
                                 text=True, errors="replace", timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            return "caught", "by a test that did not end", time.monotonic() - started
        seconds = time.monotonic() - started
        if run.returncode == 0:
            return "survived", "", seconds
        if run.returncode < 0:
            return "caught", f"by a crash (signal {-run.returncode})", seconds
        files = re.findall(r"(\w+)_test\.cpp:\d+: failed", run.stdout)
        subjects = sorted(set(files), key=files.index)
        return "caught", "by " + ", ".join(subjects or ["an unknown test"]), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-j", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("names", nargs="*", help="only these faults")
    options = parser.parse_args()
    unknown = set(options.names) - {fault[0] for fault in FAULTS}
    if unknown:
        sys.exit(f"no such fault: {', '.join(sorted(unknown))}")
    chosen = [fault for fault in FAULTS if not options.names or fault[0] in options.names]

    outcome, detail, seconds = try_fault(None)
    if outcome != "survived":
        sys.exit(f"the untouched headers do not pass: {outcome} {detail}")
    print(f"untouched headers: all tests pass ({seconds:.0f} s)", flush=True)

    caught = 0
    with concurrent.futures.ThreadPoolExecutor(options.j) as pool:
        for fault, (outcome, detail, seconds) in zip(chosen, pool.map(try_fault, chosen)):
            caught += outcome == "caught"
            print(f"{outcome.upper() if outcome != 'caught' else outcome:9} {fault[0]:28} "
                  f"{detail} ({seconds:.0f} s)", flush=True)
    print(f"{caught} of {len(chosen)} faults caught")
    sys.exit(0 if caught == len(chosen) else 1)


if __name__ == "__main__":
    main()
