//! Identifiers. Newtypes, except [`TokenId`], which travels in bulk.

/// A vocabulary index. A plain integer, because prompts arrive and leave as slices of them.
pub type TokenId = u32;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(serde::Serialize, serde::Deserialize)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// One request of a client, unique for the life of the engine.
    RequestId(u64)
}
id! {
    /// One token sequence inside the engine: a request has one for each of its choices.
    /// Assigned in order of arrival, so it also breaks ties between equal ranks.
    SequenceId(u64)
}
id! {
    /// Index of a loaded model in the order they were given to the engine.
    ModelId(u32)
}
id! {
    /// Whose request it is, for policies that share between tenants.
    TenantId(u32)
}
id! {
    /// Index of a KV block in the pool. Block 0 is scratch and never allocated.
    BlockId(u32)
}
id! {
    /// Index of a block of host memory that takes up a KV block's content.
    HostBlockId(u32)
}
id! {
    /// Keeps the prefix cache of those who share it apart from all others: sequences share
    /// blocks only under an equal salt. A digest wide enough that collisions need no handling.
    CacheSalt(u128)
}

impl BlockId {
    /// The block as an array index.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl HostBlockId {
    /// The block as an array index.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl ModelId {
    /// The model as an array index.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
