//! The expansion of a step on the emulated device: any plan of steps against block tables and
//! tokens that are kept on the host.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(unsafe_code, reason = "a graph is replayed")]

mod common;
mod cuda_common;
mod cuda_rows;

use cuda_common::context;
use cuda_rows::Words;
use folio_kernels::cuda::{
    BlockTables, Command, Context, PrepareStep, StepArrays, StepRow, prepare_step,
};
use proptest::prelude::*;

/// The slot of padding rows, whose block table has scratch blocks alone.
const DUMMY: usize = 0;
const NUM_SLOTS: usize = 6;
const MAX_BLOCKS: usize = 5;
const MAX_TOKENS: usize = 700;
/// What no kernel writes.
const UNTOUCHED: i32 = -77;

/// A row of a step, as a scheduler would plan it.
#[derive(Clone, Debug)]
struct Planned {
    slot: usize,
    num_tokens: usize,
    /// Whether its one token is the one that was sampled last.
    is_sampled: bool,
}

/// The device's arrays.
struct Device {
    context: Context,
    block_tables: Words,
    last_tokens: Words,
    /// token_ids, positions, slot_mapping, cu_seqlens, seq_lens, row_slots.
    arrays: [Words; 6],
    block_size: usize,
}

impl Device {
    fn new(block_size: usize) -> Self {
        let context = context();
        let empty = |len: usize| Words::ints(&context, &vec![UNTOUCHED; len]);
        Self {
            block_tables: Words::ints(&context, &[0; NUM_SLOTS * MAX_BLOCKS]),
            last_tokens: Words::ints(&context, &[0, 101, 102, 103, 104, 105]),
            arrays: [
                empty(MAX_TOKENS),
                empty(MAX_TOKENS),
                empty(MAX_TOKENS),
                empty(NUM_SLOTS + 2),
                empty(NUM_SLOTS + 1),
                empty(NUM_SLOTS + 1),
            ],
            block_size,
            context,
        }
    }

    fn args(&self, rows: &Words, num_rows: usize, upload: &Words) -> PrepareStep {
        let [token_ids, positions, slot_mapping, cu_seqlens, seq_lens, row_slots] =
            self.arrays.each_ref().map(Words::ptr);
        PrepareStep {
            rows: rows.ptr(),
            num_rows,
            upload: upload.ptr(),
            last_tokens: self.last_tokens.ptr(),
            block_tables: Some(BlockTables {
                blocks: self.block_tables.view([NUM_SLOTS, MAX_BLOCKS]),
                block_size: self.block_size,
            }),
            arrays: StepArrays {
                token_ids,
                positions,
                slot_mapping,
                cu_seqlens,
                seq_lens,
                row_slots,
            },
        }
    }

    /// Leftovers of one step are not mistaken for the next step's.
    fn clear(&self) {
        for array in &self.arrays {
            let len = array.read_ints(&self.context).len();
            array.write(&self.context, &vec![UNTOUCHED; len]);
        }
    }

    fn read(&self) -> [Vec<i32>; 6] {
        self.arrays.each_ref().map(|words| words.read_ints(&self.context))
    }
}

/// The host's own account of the same step by step.
struct Reference {
    block_size: usize,
    tables: Vec<Vec<i32>>,
    num_computed: Vec<usize>,
    next_block: i32,
    next_token: i32,
    upload: Vec<i32>,
    rows: Vec<StepRow>,
    arrays: [Vec<i32>; 6],
}

impl Reference {
    fn new(block_size: usize) -> Self {
        Self {
            block_size,
            tables: vec![Vec::new(); NUM_SLOTS],
            num_computed: vec![0; NUM_SLOTS],
            next_block: 1,
            next_token: 1000,
            upload: Vec::new(),
            rows: Vec::new(),
            arrays: Default::default(),
        }
    }

    /// Plans a step and says what the device must come up with.
    fn step(&mut self, planned: &[Planned]) {
        self.upload = vec![UNTOUCHED; 3];
        self.rows.clear();
        self.arrays = Default::default();
        self.arrays[3].push(0);
        for row in planned {
            self.row(row);
        }
    }

    fn row(&mut self, row: &Planned) {
        let start = if row.slot == DUMMY { 0 } else { self.num_computed[row.slot] };
        let end = start + row.num_tokens;
        let first_new_block = self.tables[row.slot].len();
        let block_offset = self.upload.len();
        while row.slot != DUMMY && self.tables[row.slot].len() * self.block_size < end {
            self.tables[row.slot].push(self.next_block);
            self.upload.push(self.next_block);
            self.next_block += 1;
        }
        let num_new_blocks = self.upload.len() - block_offset;
        let token_offset = if row.is_sampled { -1 } else { self.upload.len() as i32 };
        let first_token = self.arrays[0].len();
        for position in start..end {
            let token = if row.is_sampled { last_token(row.slot) } else { self.next_token };
            if !row.is_sampled {
                self.upload.push(token);
                self.next_token += 1;
            }
            let block = self.tables[row.slot].get(position / self.block_size).unwrap_or(&0);
            let slot = block * self.block_size as i32 + (position % self.block_size) as i32;
            for (array, value) in self.arrays.iter_mut().zip([token, position as i32, slot]) {
                array.push(value);
            }
        }
        self.num_computed[row.slot] = end;
        let num_tokens = self.arrays[0].len() as i32;
        for (array, value) in
            self.arrays[3..].iter_mut().zip([num_tokens, end as i32, row.slot as i32])
        {
            array.push(value);
        }
        self.rows.push(StepRow {
            slot: row.slot as i32,
            first_token: first_token as i32,
            num_tokens: row.num_tokens as i32,
            start: start as i32,
            token_offset,
            block_offset: block_offset as i32,
            num_new_blocks: num_new_blocks as i32,
            first_new_block: first_new_block as i32,
        });
    }

    fn words(&self) -> Vec<i32> {
        self.rows.iter().flat_map(|row| row.words()).collect()
    }

    /// The block tables, scratch blocks where nothing was given out.
    fn all_tables(&self) -> Vec<i32> {
        let padded = |table: &Vec<i32>| {
            let mut table = table.clone();
            table.resize(MAX_BLOCKS, 0);
            table
        };
        self.tables.iter().flat_map(padded).collect()
    }

    fn check(&self, device: &Device) {
        let actual = device.read();
        for (index, (actual, expected)) in actual.iter().zip(&self.arrays).enumerate() {
            let (written, rest) = actual.split_at(expected.len());
            assert_eq!(written, expected, "array {index} of {:?}", self.rows);
            assert!(
                rest.iter().all(|&x| x == UNTOUCHED),
                "array {index} was written beyond its end: {rest:?}"
            );
        }
        let tables = device.block_tables.read_ints(&device.context);
        assert_eq!(tables, self.all_tables(), "block tables after {:?}", self.rows);
    }
}

fn last_token(slot: usize) -> i32 {
    if slot == DUMMY { 0 } else { 100 + slot as i32 }
}

/// A step of some of the slots in any order, within what a block table holds.
fn steps() -> impl Strategy<Value = (usize, Vec<Vec<Planned>>)> {
    let row = (1..=130usize, any::<bool>());
    let slots = proptest::sample::subsequence((1..NUM_SLOTS).collect::<Vec<_>>(), 1..NUM_SLOTS);
    let step = (slots.prop_shuffle(), proptest::collection::vec(row, NUM_SLOTS), 0..2usize)
        .prop_map(|(slots, sizes, num_padding)| {
            let row = |(slot, (num_tokens, is_sampled)): (usize, (usize, bool))| Planned {
                slot,
                num_tokens: if is_sampled { 1 } else { num_tokens },
                is_sampled,
            };
            let mut rows: Vec<Planned> = slots.into_iter().zip(sizes).map(row).collect();
            let padding = Planned { slot: DUMMY, num_tokens: 1, is_sampled: true };
            rows.extend(vec![padding; num_padding]);
            rows
        });
    let block_sizes = proptest::sample::select(vec![16usize, 32, 256]);
    (block_sizes, proptest::collection::vec(step, 1..6))
}

/// Cuts rows down to what is left of their block tables.
fn fit(reference: &Reference, planned: &[Planned]) -> Vec<Planned> {
    let limit = MAX_BLOCKS * reference.block_size;
    let left = |row: &Planned| limit.saturating_sub(reference.num_computed[row.slot]);
    planned
        .iter()
        .filter(|row| row.slot == DUMMY || left(row) > 0)
        .map(|row| match row.slot {
            DUMMY => row.clone(),
            _ => Planned { num_tokens: row.num_tokens.min(left(row)), ..row.clone() },
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_steps_leave_what_the_host_expects((block_size, steps) in steps()) {
        let device = Device::new(block_size);
        let mut reference = Reference::new(block_size);
        for planned in steps {
            let planned = fit(&reference, &planned);
            if planned.is_empty() {
                continue;
            }
            device.clear();
            reference.step(&planned);
            let rows = Words::ints(&device.context, &reference.words());
            let upload = Words::ints(&device.context, &reference.upload);
            let args = device.args(&rows, reference.rows.len(), &upload);
            prepare_step(&device.context, args).unwrap();
            reference.check(&device);
        }
    }
}

#[test]
fn a_captured_launch_serves_other_steps() {
    let device = Device::new(16);
    let mut reference = Reference::new(16);
    let planned = |slots: [usize; 2], is_sampled| {
        slots.map(|slot| Planned { slot, num_tokens: if is_sampled { 1 } else { 20 }, is_sampled })
    };
    let rows = Words::ints(&device.context, &[0; 16]);
    let upload = Words::ints(&device.context, &[0; 64]);
    let (driver, stream) = (device.context.driver(), device.context.stream());
    driver.begin_capture(stream).unwrap();
    prepare_step(&device.context, device.args(&rows, 2, &upload)).unwrap();
    let graph = driver.end_capture(stream).unwrap();
    for step in [planned([3, 1], false), planned([1, 3], true), planned([5, DUMMY], true)] {
        reference.step(&step);
        for (to, values) in [(&rows, reference.words()), (&upload, reference.upload.clone())] {
            to.write(&device.context, &values);
        }
        device.clear();
        // SAFETY: all that the graph names is alive.
        unsafe { driver.enqueue(stream, Command::Replay(graph)).unwrap() };
        reference.check(&device);
    }
}

#[test]
fn positions_beyond_the_block_table_go_to_the_scratch_block() {
    let device = Device::new(16);
    let start = (MAX_BLOCKS * 16 - 1) as i32;
    let row = StepRow { slot: 2, num_tokens: 3, start, ..StepRow::default() };
    let rows = Words::ints(&device.context, &row.words());
    // Ids 7, 8 and 9; no new blocks: the table's last entry is the scratch block as well.
    let upload = Words::ints(&device.context, &[7, 8, 9]);
    prepare_step(&device.context, device.args(&rows, 1, &upload)).unwrap();
    let [token_ids, positions, slots, ..] = device.read();
    assert_eq!(token_ids[..4], [7, 8, 9, UNTOUCHED]);
    assert_eq!(positions[..3], [start, start + 1, start + 2]);
    assert_eq!(slots[..3], [15, 0, 1]);
}

#[test]
fn blocks_beyond_the_block_table_are_dropped() {
    let device = Device::new(16);
    let row = StepRow {
        slot: 1,
        num_tokens: 1,
        num_new_blocks: 3,
        first_new_block: MAX_BLOCKS as i32 - 1,
        ..StepRow::default()
    };
    let rows = Words::ints(&device.context, &row.words());
    let upload = Words::ints(&device.context, &[11, 12, 13]);
    prepare_step(&device.context, device.args(&rows, 1, &upload)).unwrap();
    let tables = device.block_tables.read_ints(&device.context);
    let mut expected = vec![0; NUM_SLOTS * MAX_BLOCKS];
    expected[2 * MAX_BLOCKS - 1] = 11;
    assert_eq!(tables, expected);
}

#[test]
fn without_block_tables_there_are_no_slots() {
    let device = Device::new(16);
    let row = |first_token, num_tokens, token_offset| StepRow {
        first_token,
        num_tokens,
        token_offset,
        ..StepRow::default()
    };
    let words = [row(0, 300, 0), row(300, 2, 300)].map(StepRow::words).concat();
    let rows = Words::ints(&device.context, &words);
    let ids: Vec<i32> = (500..802).collect();
    let upload = Words::ints(&device.context, &ids);
    let args = PrepareStep { block_tables: None, ..device.args(&rows, 2, &upload) };
    prepare_step(&device.context, args).unwrap();
    let [token_ids, positions, slots, cu_seqlens, seq_lens, _] = device.read();
    assert_eq!(token_ids[..302], ids);
    let expected: Vec<i32> = (0..300).chain(0..2).collect();
    assert_eq!(positions[..302], expected);
    assert_eq!(cu_seqlens[..4], [0, 300, 302, UNTOUCHED]);
    assert_eq!(seq_lens[..2], [300, 2]);
    assert!(slots.iter().all(|&slot| slot == UNTOUCHED));
}
