use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const P: u32 = 4;

fn allocator(num_blocks: u32) -> BlockAllocator {
    BlockAllocator::new(num_blocks + 1, P, PrefixCaching::On)
}

fn tokens(len: u32) -> Vec<TokenId> {
    (0..len).collect()
}

/// Extends a table to cover `num_tokens` tokens without touching what it has.
fn grow(
    allocator: &mut BlockAllocator,
    table: &mut BlockTable,
    num_tokens: u32,
) -> Result<(), OutOfBlocks> {
    let covered = table.num_blocks() * P;
    allocator.secure(table, covered..num_tokens.max(covered)).map(|copy| assert_eq!(copy, None))
}

/// A table that holds the computed and published blocks of `tokens`.
fn computed(allocator: &mut BlockAllocator, tokens: &[TokenId]) -> BlockTable {
    let mut table = BlockTable::default();
    allocator.match_prefix(tokens, None, &mut table);
    grow(allocator, &mut table, tokens.len() as u32).unwrap();
    allocator.publish(&mut table, tokens, None);
    table
}

#[test]
fn a_prefix_is_found_while_held_and_after_release() {
    let mut allocator = allocator(8);
    let mut first = computed(&mut allocator, &tokens(10));
    let mut second = BlockTable::default();
    assert_eq!(allocator.match_prefix(&tokens(10), None, &mut second), 8);
    assert_eq!(second.blocks(), &first.blocks()[..2]);
    allocator.release(&mut first);
    allocator.release(&mut second);
    assert_eq!(allocator.num_free(), 8);
    assert_eq!(allocator.match_prefix(&tokens(9), None, &mut second), 8);
    allocator.release(&mut second);
    allocator.assert_consistent(std::iter::empty());
}

#[test]
fn a_match_never_covers_the_last_known_token() {
    let mut allocator = allocator(8);
    let mut table = computed(&mut allocator, &tokens(8));
    allocator.release(&mut table);
    assert_eq!(allocator.peek_prefix(&tokens(8), None).num_tokens, 4);
    assert_eq!(allocator.peek_prefix(&tokens(9), None).num_tokens, 8);
}

#[test]
fn equal_blocks_under_different_parents_are_different_content() {
    let mut allocator = allocator(8);
    let mut table = computed(&mut allocator, &[1, 1, 1, 1, 7, 7, 7, 7]);
    let mut other = BlockTable::default();
    let matched = allocator.match_prefix(&[2, 2, 2, 2, 7, 7, 7, 7, 0], None, &mut other);
    assert_eq!(matched, 0);
    allocator.release(&mut table);
}

#[test]
fn salts_keep_prefixes_apart() {
    let mut allocator = allocator(8);
    let (alice, bob) = (Some(CacheSalt(1)), Some(CacheSalt(2)));
    let mut table = BlockTable::default();
    grow(&mut allocator, &mut table, 8).unwrap();
    allocator.publish(&mut table, &tokens(8), alice);
    assert_eq!(allocator.peek_prefix(&tokens(9), alice).num_tokens, 8);
    assert_eq!(allocator.peek_prefix(&tokens(9), bob).num_tokens, 0);
    assert_eq!(allocator.peek_prefix(&tokens(9), None).num_tokens, 0);
    allocator.release(&mut table);
}

#[test]
fn cached_content_survives_until_no_other_block_is_free() {
    let mut allocator = allocator(4);
    let mut cached = computed(&mut allocator, &tokens(8));
    allocator.release(&mut cached);
    let mut plain = BlockTable::default();
    grow(&mut allocator, &mut plain, 2 * P).unwrap();
    assert_eq!(allocator.peek_prefix(&tokens(9), None).num_tokens, 8, "two blocks were idle");
    grow(&mut allocator, &mut plain, 3 * P).unwrap();
    assert_eq!(allocator.peek_prefix(&tokens(9), None).num_tokens, 4, "the tail goes first");
    assert_eq!(grow(&mut allocator, &mut plain, 5 * P), Err(OutOfBlocks { short: 1 }));
    allocator.assert_consistent([&plain].into_iter());
    allocator.release(&mut plain);
}

#[test]
fn least_recently_used_content_goes_first() {
    let mut allocator = allocator(2);
    let mut old = computed(&mut allocator, &[1, 1, 1, 1]);
    let mut new = computed(&mut allocator, &[2, 2, 2, 2]);
    allocator.release(&mut old);
    allocator.release(&mut new);
    let mut again = BlockTable::default();
    allocator.match_prefix(&[1, 1, 1, 1, 0], None, &mut again);
    allocator.release(&mut again);
    let mut plain = BlockTable::default();
    grow(&mut allocator, &mut plain, 1).unwrap();
    assert_eq!(allocator.peek_prefix(&[1, 1, 1, 1, 0], None).num_tokens, 4);
    assert_eq!(allocator.peek_prefix(&[2, 2, 2, 2, 0], None).num_tokens, 0);
    allocator.release(&mut plain);
}

#[test]
fn a_forked_block_is_copied_before_it_is_written() {
    let mut allocator = allocator(8);
    let mut parent = computed(&mut allocator, &tokens(6));
    let mut child = allocator.fork(&parent);
    assert_eq!(allocator.num_free(), 6);
    let copy = allocator.secure(&mut child, 5..6).unwrap().unwrap();
    assert_eq!(copy, BlockCopy { source: parent.blocks()[1], target: child.blocks()[1] });
    assert_eq!(parent.blocks()[0], child.blocks()[0], "the full block stays shared");
    assert_eq!(allocator.secure(&mut parent, 5..6), Ok(None), "nobody shares it any more");
    allocator.assert_consistent([&parent, &child].into_iter());
    allocator.release(&mut parent);
    allocator.release(&mut child);
    assert_eq!(allocator.num_free(), 8);
}

#[test]
fn duplicate_content_keeps_its_first_block_and_children_find_their_parent() {
    let mut allocator = allocator(8);
    let mut first = BlockTable::default();
    let mut second = BlockTable::default();
    grow(&mut allocator, &mut first, 4).unwrap();
    grow(&mut allocator, &mut second, 8).unwrap();
    allocator.publish(&mut first, &tokens(4), None);
    allocator.publish(&mut second, &tokens(8), None);
    let mut third = BlockTable::default();
    assert_eq!(allocator.match_prefix(&tokens(9), None, &mut third), 8);
    assert_eq!(third.blocks(), &[first.blocks()[0], second.blocks()[1]]);
    for table in [&mut first, &mut second, &mut third] {
        allocator.release(table);
    }
}

#[test]
fn without_caching_nothing_is_found() {
    let mut allocator = BlockAllocator::new(9, P, PrefixCaching::Off);
    let mut table = computed(&mut allocator, &tokens(8));
    assert_eq!(allocator.peek_prefix(&tokens(9), None).num_tokens, 0);
    allocator.release(&mut table);
    assert_eq!(allocator.num_cached(), 0);
}

#[derive(Clone, Debug)]
enum Operation {
    Start { family: u32, len: u32 },
    Grow { pick: usize, by: u32 },
    Fork { pick: usize },
    Write { pick: usize },
    Release { pick: usize },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (0..3u32, 1..30u32).prop_map(|(family, len)| Operation::Start { family, len }),
        4 => (any::<usize>(), 1..9u32).prop_map(|(pick, by)| Operation::Grow { pick, by }),
        2 => any::<usize>().prop_map(|pick| Operation::Fork { pick }),
        2 => any::<usize>().prop_map(|pick| Operation::Write { pick }),
        3 => any::<usize>().prop_map(|pick| Operation::Release { pick }),
    ]
}

/// What somebody knows who has only the events: the whole prefix of each content.
#[derive(Default)]
struct Listener(HashMap<ContentId, Vec<TokenId>>);

impl Listener {
    fn hear(&mut self, events: Vec<KvEvent>) {
        for event in events {
            match event {
                KvEvent::Stored { parent, contents, tokens } => {
                    let mut prefix = parent.map_or_else(Vec::new, |parent| self.0[&parent].clone());
                    assert_eq!(tokens.len(), contents.len() * P as usize);
                    for (content, block) in contents.iter().zip(tokens.chunks(P as usize)) {
                        prefix.extend_from_slice(block);
                        assert!(self.0.insert(*content, prefix.clone()).is_none(), "{content}");
                    }
                }
                KvEvent::Removed { contents } => {
                    for content in contents {
                        assert!(self.0.remove(&content).is_some(), "{content} is not there");
                    }
                }
                KvEvent::Cleared => self.0.clear(),
            }
        }
    }

    /// Finds of `tokens` what the index finds, no more and no less.
    fn check(&self, allocator: &BlockAllocator, tokens: &[TokenId]) {
        let is_known = |len: &usize| self.0.values().any(|prefix| *prefix == tokens[..*len]);
        let lens = (1..=tokens.len() / P as usize).map(|num_blocks| num_blocks * P as usize);
        let known = lens.take_while(is_known).last().unwrap_or(0);
        let found = allocator.peek_prefix(&[tokens, &[0]].concat(), None).num_tokens;
        assert_eq!(known, found as usize, "{tokens:?}");
    }
}

#[test]
fn content_under_a_salt_is_not_told() {
    let mut allocator = allocator(8);
    allocator.record_events();
    let mut table = BlockTable::default();
    grow(&mut allocator, &mut table, 8).unwrap();
    allocator.publish(&mut table, &tokens(8), Some(CacheSalt(7)));
    allocator.withdraw(&table);
    assert_eq!(allocator.take_events(), []);
    allocator.release(&mut table);
}

/// A pool whose blocks remember which tokens were written to them, so that a match that returns
/// the wrong content is seen.
struct Pool {
    allocator: BlockAllocator,
    written: Vec<Vec<Option<u64>>>,
    live: Vec<(Vec<TokenId>, BlockTable)>,
}

/// What position `tokens.len() - 1` must hold: it depends on everything before it.
fn fingerprint(tokens: &[TokenId]) -> u64 {
    tokens.iter().fold(7, |hash: u64, &token| {
        hash.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(u64::from(token) + 1)
    })
}

impl Pool {
    fn write(&mut self, index: usize, from: usize) {
        let (tokens, table) = &mut self.live[index];
        for position in from..tokens.len() {
            let block = table.blocks()[position / P as usize].index();
            self.written[block][position % P as usize] = Some(fingerprint(&tokens[..=position]));
        }
        self.allocator.publish(table, tokens, None);
    }

    fn check(&self) {
        self.allocator.assert_consistent(self.live.iter().map(|(_, table)| table));
        for (tokens, table) in &self.live {
            for position in 0..tokens.len() {
                let block = table.blocks()[position / P as usize].index();
                let found = self.written[block][position % P as usize];
                assert_eq!(found, Some(fingerprint(&tokens[..=position])), "position {position}");
            }
        }
    }

    fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Start { family, len } => {
                let tokens: Vec<_> = (0..len).map(|i| family.min(i / 7)).collect();
                let mut table = BlockTable::default();
                let matched = self.allocator.match_prefix(&tokens, None, &mut table);
                if self.allocator.secure(&mut table, matched..len).is_err() {
                    return self.allocator.release(&mut table);
                }
                self.live.push((tokens, table));
                self.write(self.live.len() - 1, matched as usize);
            }
            _ if self.live.is_empty() => {}
            Operation::Grow { pick, by } => self.extend(pick % self.live.len(), by),
            Operation::Fork { pick } => {
                let (tokens, table) = &self.live[pick % self.live.len()];
                let fork = (tokens.clone(), self.allocator.fork(table));
                self.live.push(fork);
            }
            Operation::Write { pick } => {
                let index = pick % self.live.len();
                let last = self.live[index].0.len() - 1;
                if self.secure(index, last..last + 1) {
                    self.live[index].0[last] ^= 64;
                    self.write(index, last);
                }
            }
            Operation::Release { pick } => {
                let (_, mut table) = self.live.swap_remove(pick % self.live.len());
                self.allocator.release(&mut table);
            }
        }
    }

    /// Makes `positions` writable, carrying the content of a replaced block along.
    fn secure(&mut self, index: usize, positions: Range<usize>) -> bool {
        let table = &mut self.live[index].1;
        let before = table.blocks().to_vec();
        match self.allocator.secure(table, positions.start as u32..positions.end as u32) {
            Ok(Some(copy)) => {
                self.written[copy.target.index()] = self.written[copy.source.index()].clone();
                true
            }
            Ok(None) => true,
            Err(_) => {
                assert_eq!(table.blocks(), before, "a failure changes nothing");
                false
            }
        }
    }

    fn extend(&mut self, index: usize, by: u32) {
        let len = self.live[index].0.len();
        if self.secure(index, len..len + by as usize) {
            self.live[index].0.extend((0..by).map(|i| i % 2));
            self.write(index, len);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_counts_and_contents_right(
        num_blocks in 1..24u32,
        operations in prop::collection::vec(operation(), 1..120),
    ) {
        let mut listener = Listener::default();
        let mut recorded = allocator(num_blocks);
        recorded.record_events();
        let mut pool = Pool {
            allocator: recorded,
            written: vec![vec![None; P as usize]; num_blocks as usize + 1],
            live: Vec::new(),
        };
        for operation in &operations {
            pool.apply(operation);
            pool.check();
            listener.hear(pool.allocator.take_events());
            let known = listener.0.values();
            for tokens in pool.live.iter().map(|(tokens, _)| tokens).chain(known) {
                listener.check(&pool.allocator, tokens);
            }
        }
        for (_, mut table) in std::mem::take(&mut pool.live) {
            pool.allocator.release(&mut table);
        }
        prop_assert_eq!(pool.allocator.num_free(), num_blocks);
    }
}
