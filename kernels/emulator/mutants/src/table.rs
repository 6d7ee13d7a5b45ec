//! The mutants: which text of which kernel file becomes what. Whoever changes such text in a kernel
//! changes it here too, as `every_bug_can_be_planted` says.

/// One planted bug.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// What the bug is. The mutant's kernel is called `<kernel>__<name>`.
    pub name: &'static str,
    /// The kernel in which it is tried.
    pub kernel: &'static str,
    /// The kernel file with that entry point.
    pub unit: &'static str,
    /// The file that is changed: the unit, or a header of it.
    pub file: &'static str,
    /// Text that occurs in it once; a space in it stands for any white space.
    pub before: &'static str,
    /// What takes its place.
    pub after: &'static str,
}

const fn decode(name: &'static str, [before, after]: [&'static str; 2]) -> Mutant {
    let (kernel, unit) = ("attention_decode_bf16_d64", "attention_decode.cu");
    Mutant { name, kernel, unit, file: unit, before, after }
}

const fn prefill(name: &'static str, [before, after]: [&'static str; 2]) -> Mutant {
    let (kernel, unit) = ("attention_prefill_bf16_d64", "attention_prefill.cu");
    Mutant { name, kernel, unit, file: "attention_prefill.cuh", before, after }
}

const fn gemm(name: &'static str, [before, after]: [&'static str; 2]) -> Mutant {
    let (kernel, unit) = ("gemm_64x64_bf16", "gemm.cu");
    Mutant { name, kernel, unit, file: unit, before, after }
}

const fn gemm_small(name: &'static str, [before, after]: [&'static str; 2]) -> Mutant {
    let (kernel, unit) = ("gemm_small_16x32_bf16", "gemm_small.cu");
    Mutant { name, kernel, unit, file: unit, before, after }
}

const fn in_header(mutant: Mutant, file: &'static str) -> Mutant {
    Mutant { file, ..mutant }
}

/// All mutants.
pub const MUTANTS: &[Mutant] = &[
    // ---- copies in the background -------------------------------------------------------------
    decode(
        "waits_for_one_group_too_few",
        [
            "keys = ring.take(); cp_async_wait<length - 1>();",
            "keys = ring.take(); cp_async_wait<length>();",
        ],
    ),
    prefill(
        "does_not_wait_for_queries",
        ["cp_async_wait<1>(); __syncwarp(); const Queries", "__syncwarp(); const Queries"],
    ),
    gemm(
        "waits_for_one_stage_too_few",
        [
            "if (step == kSteps - 1) { cp_async_wait<STAGES - 2>();",
            "if (step == kSteps - 1) { cp_async_wait<STAGES - 1>();",
        ],
    ),
    gemm_small(
        "copies_into_the_stage_in_use",
        [
            "cp_async_wait<kStages - 2>(); __syncthreads();",
            "__syncthreads(); cp_async_wait<kStages - 2>();",
        ],
    ),
    decode(
        "starts_its_ring_one_warp_late",
        ["{rings + warp * ring_elements, 0}", "{rings + (warp + 1) * ring_elements, 0}"],
    ),
    // ---- barriers -----------------------------------------------------------------------------
    decode(
        "reads_sums_before_they_are_there",
        ["leave_states(states[warp], rows); __syncthreads();", "leave_states(states[warp], rows);"],
    ),
    decode(
        "loads_over_sums_that_are_read",
        ["__threadfence(); __syncthreads(); loader", "__threadfence(); loader"],
    ),
    prefill(
        "reads_a_tile_that_others_load",
        ["__syncthreads(); // the tile is there", "// the tile is there"],
    ),
    prefill(
        "stores_over_tiles_in_use",
        ["__syncthreads(); // the stages are free", "// the stages are free"],
    ),
    gemm("has_no_barrier_in_its_ring", ["__syncthreads(); stage = ", "stage = "]),
    gemm_small(
        "adds_groups_before_they_are_there",
        ["__syncthreads(); if (inner_group > 0) return;", "if (inner_group > 0) return;"],
    ),
    decode(
        "has_a_barrier_for_one_thread",
        [
            "*arrived = atomicAdd(p.counters + piece.owner, 1); __syncthreads();",
            "{ *arrived = atomicAdd(p.counters + piece.owner, 1); __syncthreads(); }",
        ],
    ),
    // ---- between blocks -----------------------------------------------------------------------
    gemm_small(
        "arrives_before_its_part_is_there",
        ["__threadfence(); __syncthreads(); int* is_last", "int* is_last"],
    ),
    decode(
        "does_not_wait_to_hear_who_is_last",
        ["1); __syncthreads(); if (*arrived", "1); if (*arrived"],
    ),
    decode(
        "leaves_its_counter_as_it_is",
        ["if (threadIdx.x == 0) p.counters[piece.owner] = 0;", ""],
    ),
    // ---- warps --------------------------------------------------------------------------------
    decode(
        "shuffles_in_some_lanes",
        [
            "if (lane % 4 == 0) states[lane / 4 + half * 8] = {rows.offset[half], sum};",
            "if (lane % 4 == 0) states[lane / 4 + half * 8] = {rows.offset[half], quad_sum(sum)};",
        ],
    ),
    prefill(
        "reads_results_that_lanes_have_not_stored",
        [
            "__syncwarp(); constexpr int num_chunks = D / 8; T* target",
            "constexpr int num_chunks = D / 8; T* target",
        ],
    ),
    in_header(
        decode("reads_keys_transposed", ["ldmatrix_x4(b, keys", "ldmatrix_x4_trans(b, keys"]),
        "attention.cuh",
    ),
    in_header(
        prefill(
            "reads_values_as_they_lie",
            ["ldmatrix_x4_trans(b, values", "ldmatrix_x4(b, values"],
        ),
        "attention.cuh",
    ),
    // ---- addresses and masks ------------------------------------------------------------------
    in_header(
        decode(
            "does_not_permute_what_it_loads",
            [
                "const int lane_offset = chunk_offset<D>(lane / num_chunks, lane % num_chunks);",
                "const int lane_offset = lane * 8;",
            ],
        ),
        "attention.cuh",
    ),
    in_header(
        decode(
            "loads_rows_that_nobody_sees",
            ["row >= begin && row < end; cp_async_16(", "row >= begin; cp_async_16("],
        ),
        "attention.cuh",
    ),
    decode(
        "does_not_mask_the_tail",
        ["if (begin > 0 || end < WARP_TOKENS) mask_scores(scores[0], begin, end);", ""],
    ),
    decode(
        "sees_one_key_beyond_its_window",
        ["end > p.window ? end - p.window : 0", "end > p.window ? end - p.window - 1 : 0"],
    ),
    prefill(
        "sees_the_next_token",
        ["first_position + token(row) + 1;", "first_position + token(row) + 2;"],
    ),
    gemm(
        "stores_one_row_too_many",
        [
            "min(p.num_rows - first_row, TILE_ROWS); const int64_t output",
            "min(p.num_rows + 1 - first_row, TILE_ROWS); const int64_t output",
        ],
    ),
    gemm(
        "reads_beyond_the_last_column",
        ["const bool valid = k < p.inner;", "const bool valid = true;"],
    ),
    // ---- arithmetic ---------------------------------------------------------------------------
    in_header(
        prefill("does_not_rescale_sums", ["sums[n][2 * half] *= factor;", ""]),
        "attention.cuh",
    ),
    in_header(
        decode("does_not_rescale_the_sum_of_weights", ["rows.sum[half] *= factor;", ""]),
        "attention.cuh",
    ),
];
