//! What the host tells the device of a step, packed into one copy.
//!
//! Rows name *slots*: a slot keeps a sequence's block table and its latest token on the device, so
//! that a row of a running sequence is eight words and its new blocks. The parts that kernels of
//! a captured graph read begin at fixed places: rows, then outputs and the rows that they belong
//! to, then token and block ids.

use folio_kernels::cuda::StepRow;

use crate::types::TokenId;

/// Where the parts of an upload lie, in words of four bytes.
#[expect(clippy::struct_field_names, reason = "limits are called max_")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UploadLayout {
    /// Rows that there is room for, S.
    pub(crate) max_rows: usize,
    /// Output rows, E, that a graph may read.
    pub(crate) max_outputs: usize,
    /// Token ids and block ids together.
    pub(crate) max_ids: usize,
}

impl UploadLayout {
    /// Where the output rows begin.
    pub(crate) fn outputs(self) -> usize {
        self.max_rows * StepRow::NUM_WORDS
    }

    /// Where the rows that the outputs belong to begin.
    pub(crate) fn emitting(self) -> usize {
        self.outputs() + self.max_outputs
    }

    /// Where token and block ids begin.
    fn ids(self) -> usize {
        self.emitting() + self.max_outputs
    }

    /// All of it.
    pub(crate) fn num_words(self) -> usize {
        self.ids() + self.max_ids
    }
}

/// One sequence's share of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UploadRow<'a> {
    /// Its slot.
    pub(crate) slot: u32,
    /// Position of its first token in the step.
    pub(crate) start: u32,
    /// Its tokens.
    pub(crate) tokens: RowTokens<'a>,
    /// Index in its block table that the first of its new blocks takes.
    pub(crate) first_new_block: u32,
}

/// The tokens that a row computes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RowTokens<'a> {
    /// These; at least one.
    Given(&'a [TokenId]),
    /// The one that was sampled last in its slot, which the host may not know yet.
    Latest,
}

/// Sizes of a step, from which grids of kernels are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StepSizes {
    /// Rows, S.
    pub(crate) num_rows: usize,
    /// Tokens, T.
    pub(crate) num_tokens: usize,
    /// Output rows, E.
    pub(crate) num_outputs: usize,
    /// Where the output rows begin, in words, if not at their fixed place.
    pub(crate) moved_outputs: Option<usize>,
    /// Rows with one token.
    pub(crate) num_single_rows: usize,
    /// Most tokens of a row.
    pub(crate) max_row_tokens: usize,
    /// Most tokens of a sequence after this step.
    pub(crate) max_seq_len: usize,
}

/// An upload in the making.
#[derive(Debug)]
pub(crate) struct StepUpload<'a> {
    layout: UploadLayout,
    words: &'a mut [[u8; 4]],
    sizes: StepSizes,
    /// Words in use.
    end: usize,
}

impl<'a> StepUpload<'a> {
    /// An upload without rows in `bytes`, which must have room for the layout.
    pub(crate) fn new(layout: UploadLayout, bytes: &'a mut [u8]) -> Self {
        let (words, _) = bytes.as_chunks_mut::<4>();
        assert!(words.len() >= layout.num_words(), "{} words for {layout:?}", words.len());
        Self { layout, words, sizes: StepSizes::default(), end: layout.ids() }
    }

    /// Adds a row with the blocks that it got since its last one; its tokens follow those of the
    /// rows before.
    pub(crate) fn push(&mut self, row: UploadRow<'_>, new_blocks: impl Iterator<Item = u32>) {
        let UploadLayout { max_rows, .. } = self.layout;
        let index = self.sizes.num_rows;
        assert!(index < max_rows, "row {index} of {max_rows}");
        let (token_offset, num_tokens) = match row.tokens {
            RowTokens::Latest => (-1, 1),
            RowTokens::Given(ids) => {
                assert!(!ids.is_empty(), "row {index} has no tokens");
                let offset = self.end as i32;
                for id in ids {
                    self.push_id(*id);
                }
                (offset, ids.len())
            }
        };
        let block_offset = self.end;
        for block in new_blocks {
            self.push_id(block);
        }
        let words = StepRow {
            slot: row.slot as i32,
            first_token: self.sizes.num_tokens as i32,
            num_tokens: num_tokens as i32,
            start: row.start as i32,
            token_offset,
            block_offset: block_offset as i32,
            num_new_blocks: (self.end - block_offset) as i32,
            first_new_block: row.first_new_block as i32,
        }
        .words();
        let place = &mut self.words[index * StepRow::NUM_WORDS..][..StepRow::NUM_WORDS];
        for (word, value) in place.iter_mut().zip(words) {
            *word = value.to_ne_bytes();
        }
        let sizes = &mut self.sizes;
        sizes.num_rows += 1;
        sizes.num_tokens += num_tokens;
        sizes.num_single_rows += usize::from(num_tokens == 1);
        sizes.max_row_tokens = sizes.max_row_tokens.max(num_tokens);
        sizes.max_seq_len = sizes.max_seq_len.max(row.start as usize + num_tokens);
    }

    /// Tokens of the rows so far.
    pub(crate) fn num_tokens(&self) -> usize {
        self.sizes.num_tokens
    }

    /// Wants the output of a token of the step, to be sampled for `row` on the device if that is
    /// given.
    pub(crate) fn push_output(&mut self, token: u32, row: Option<u32>) {
        let (index, max) = (self.sizes.num_outputs, self.layout.max_outputs);
        assert!(index < max, "output {index} of {max}");
        self.words[self.layout.outputs() + index] = token.to_ne_bytes();
        let row = row.map_or(-1, |row| row as i32);
        self.words[self.layout.emitting() + index] = row.to_ne_bytes();
        self.sizes.num_outputs += 1;
    }

    /// Wants more outputs, none of them sampled on the device, after all others: the list moves to
    /// where it has room, so the step is none that a graph holds.
    pub(crate) fn push_more_outputs(&mut self, tokens: impl Iterator<Item = u32>) {
        let start = self.end;
        for index in 0..self.sizes.num_outputs {
            let token = u32::from_ne_bytes(self.words[self.layout.outputs() + index]);
            self.push_id(token);
        }
        for token in tokens {
            self.push_id(token);
        }
        self.sizes.num_outputs = self.end - start;
        self.sizes.moved_outputs = Some(start);
    }

    /// The sizes of the step, and how many bytes from the first on are to be copied.
    pub(crate) fn finish(self) -> (StepSizes, usize) {
        (self.sizes, self.end * 4)
    }

    fn push_id(&mut self, id: u32) {
        let max = self.layout.num_words();
        assert!(self.end < max, "an upload of {max} words is full");
        self.words[self.end] = id.to_ne_bytes();
        self.end += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: UploadLayout = UploadLayout { max_rows: 3, max_outputs: 2, max_ids: 9 };

    #[test]
    fn parts_lie_where_the_layout_says() {
        let mut bytes = vec![0u8; LAYOUT.num_words() * 4];
        let mut upload = StepUpload::new(LAYOUT, &mut bytes);
        let prompt = UploadRow {
            slot: 7,
            start: 5,
            tokens: RowTokens::Given(&[10, 11]),
            first_new_block: 1,
        };
        upload.push(prompt, [20, 21, 22].into_iter());
        let running =
            UploadRow { slot: 2, start: 40, tokens: RowTokens::Latest, first_new_block: 3 };
        upload.push(running, std::iter::empty());
        let one =
            UploadRow { slot: 0, start: 0, tokens: RowTokens::Given(&[9]), first_new_block: 0 };
        upload.push(one, [4].into_iter());
        upload.push_output(2, Some(1));
        upload.push_output(3, None);
        let (sizes, num_bytes) = upload.finish();
        let expected = StepSizes {
            num_rows: 3,
            num_tokens: 4,
            num_outputs: 2,
            moved_outputs: None,
            num_single_rows: 2,
            max_row_tokens: 2,
            max_seq_len: 41,
        };
        assert_eq!(sizes, expected);
        let (words, _) = bytes.as_chunks::<4>();
        let words = words.iter().map(|word| i32::from_ne_bytes(*word)).collect::<Vec<_>>();
        assert_eq!(words[..8], [7, 0, 2, 5, 28, 30, 3, 1]);
        assert_eq!(words[8..16], [2, 2, 1, 40, -1, 33, 0, 3]);
        assert_eq!(words[16..24], [0, 3, 1, 0, 33, 34, 1, 0]);
        assert_eq!(words[24..26], [2, 3]);
        assert_eq!(words[26..28], [1, -1]);
        assert_eq!(words[28..num_bytes / 4], [10, 11, 20, 21, 22, 9, 4]);
    }

    #[test]
    fn more_outputs_than_fit_move_behind_the_tokens() {
        let mut bytes = vec![0u8; LAYOUT.num_words() * 4];
        let mut upload = StepUpload::new(LAYOUT, &mut bytes);
        let tokens = RowTokens::Given(&[10, 11, 12]);
        upload.push(UploadRow { slot: 0, start: 0, tokens, first_new_block: 0 }, 0..0);
        upload.push_output(2, Some(0));
        upload.push_more_outputs(0..2);
        let (sizes, num_bytes) = upload.finish();
        assert_eq!((sizes.num_outputs, sizes.moved_outputs), (3, Some(31)));
        let (words, _) = bytes.as_chunks::<4>();
        let words = words.iter().map(|word| i32::from_ne_bytes(*word)).collect::<Vec<_>>();
        assert_eq!(words[31..num_bytes / 4], [2, 0, 1]);
    }

    #[test]
    #[should_panic(expected = "is full")]
    fn an_upload_has_an_end() {
        let mut bytes = vec![0u8; LAYOUT.num_words() * 4];
        let mut upload = StepUpload::new(LAYOUT, &mut bytes);
        let row = UploadRow { slot: 0, start: 0, tokens: RowTokens::Latest, first_new_block: 0 };
        upload.push(row, 0..10);
    }
}
