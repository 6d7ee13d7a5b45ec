//! The emulator as a driver: checks calls as CUDA does, keeps commands until somebody waits for
//! them.

use std::collections::{BTreeMap, HashMap};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use folio_kernels::cuda::{
    Command, Device, DevicePtr, Driver, DriverError, EventId, GraphId, KernelId, MatmulId,
    MatmulShape, Memory, Result, StreamId,
};

use crate::EmulatorOptions;
use crate::machine::{Kernel, Launch, Machine, kernels};
use crate::memory::DeviceMemory;
use crate::stream::{Events, Point, Queued, Stream, is_capturable};

const MAX_SHARED_BYTES: u32 = 227 << 10;
const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

/// A device made of software.
#[derive(Debug)]
pub struct Emulator {
    device: Device,
    kernels: Vec<Kernel>,
    ids: HashMap<&'static str, KernelId>,
    variant: &'static str,
    state: Mutex<State>,
}

/// What has run so far.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Launches by the name of the kernel.
    pub launches: BTreeMap<&'static str, u64>,
    /// Products of 16x8x16 on tensor cores.
    pub num_mmas: u64,
    /// Copies between host and device, and on the device.
    pub num_copies: u64,
    /// Replays of graphs, which were enqueued.
    pub num_replays: u64,
}

#[derive(Debug)]
struct State {
    memory: DeviceMemory,
    machine: Machine,
    streams: Vec<Stream>,
    events: Events,
    graphs: Vec<Vec<Queued>>,
    counters: Counters,
    seed: u64,
    num_launches: u64,
    failure: Option<String>,
}

impl Emulator {
    /// A device that is made up as `options` says.
    #[must_use]
    pub fn with(options: EmulatorOptions) -> Arc<Self> {
        let kernels = kernels();
        let ids = kernels.iter().zip(0..).map(|(kernel, id)| (kernel.name, KernelId(id)));
        Arc::new(Self {
            device: Device {
                name: "CUDA emulator".to_owned(),
                capability: (9, 0),
                num_multiprocessors: options.num_multiprocessors,
                max_shared_bytes: MAX_SHARED_BYTES,
            },
            ids: ids.collect(),
            variant: options.variant,
            kernels,
            state: Mutex::new(State {
                memory: DeviceMemory::new(options.memory_bytes),
                machine: Machine::new(options.num_workers),
                streams: Vec::new(),
                events: Events::default(),
                graphs: Vec::new(),
                counters: Counters::default(),
                seed: options.seed,
                num_launches: 0,
                failure: None,
            }),
        })
    }

    /// Names of all kernels that were compiled in.
    #[must_use]
    pub fn kernel_names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.kernels.iter().map(|kernel| kernel.name).collect();
        names.sort_unstable();
        names
    }

    /// What has run so far. Commands that nobody has waited for have not.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.lock().counters.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of a device on which nothing has failed.
    fn working(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.lock();
        match &state.failure {
            Some(failure) => Err(DriverError::Failed(failure.clone())),
            None => Ok(state),
        }
    }

    /// A launch with its sizes checked as CUDA does.
    fn check_launch(&self, command: &Command<'_>) -> Result<Queued> {
        let Command::Launch { kernel, grid, num_threads, shared_bytes, params } = *command else {
            unreachable!("called for launches only")
        };
        let Some(&kernel) = self.kernels.get(kernel.0 as usize) else {
            return failed(format!("launch: no kernel has the id {}", kernel.0));
        };
        let name = kernel.name;
        if params.len() != kernel.num_params_bytes {
            let expected = kernel.num_params_bytes;
            return failed(format!("launch of {name}: {} bytes of {expected}", params.len()));
        }
        if num_threads == 0 || num_threads > kernel.max_threads.min(1024) {
            let max = kernel.max_threads;
            return failed(format!("launch of {name}: {num_threads} threads a block of {max}"));
        }
        if shared_bytes > MAX_SHARED_BYTES {
            return failed(format!("launch of {name}: {shared_bytes} bytes of shared memory"));
        }
        if grid.iter().zip(MAX_GRID).any(|(&num_blocks, max)| num_blocks == 0 || num_blocks > max) {
            return failed(format!("launch of {name}: a grid of {grid:?}"));
        }
        Ok(Queued::Launch { kernel, grid, num_threads, shared_bytes, params: params.into() })
    }
}

fn failed<T>(message: String) -> Result<T> {
    Err(DriverError::Failed(message))
}

/// Spreads every bit of `x` over all bits (the last step of SplitMix64).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl State {
    fn stream(&mut self, stream: StreamId) -> Result<&mut Stream> {
        let found = self.streams.get_mut(stream.0 as usize);
        found.ok_or_else(|| DriverError::Failed(format!("no stream has the id {}", stream.0)))
    }

    /// Runs a stream's commands up to a point, and what they wait for.
    fn run_to(&mut self, point: Point) -> Result<()> {
        while let Some(command) = self.stream(point.stream)?.pop_before(point.num_commands) {
            let result = match command {
                // The other point is older than this command, so that this comes to an end.
                Queued::Wait(other) => self.run_to(other),
                command => self.run(command).map_err(DriverError::Failed),
            };
            if let Err(DriverError::Failed(message)) = &result {
                self.failure = Some(message.clone());
            }
            result?;
        }
        Ok(())
    }

    fn run(&mut self, command: Queued) -> std::result::Result<(), String> {
        match command {
            Queued::Launch { kernel, grid, num_threads, shared_bytes, params } => {
                let params = &params;
                self.launch(&Launch { kernel, params, grid, num_threads, shared_bytes })
            }
            Queued::CopyIn { to, from, num_bytes } => {
                self.memory.check(to, num_bytes).map_err(|e| format!("copy in: {e}"))?;
                self.copy(from.as_ptr(), to.as_mut_ptr(), num_bytes);
                Ok(())
            }
            Queued::CopyOut { to, from, num_bytes } => {
                self.memory.check(from, num_bytes).map_err(|e| format!("copy out: {e}"))?;
                self.copy(from.as_ptr(), to.as_ptr(), num_bytes);
                Ok(())
            }
            Queued::Copy { to, from, num_bytes } => {
                self.memory.check(from, num_bytes).map_err(|e| format!("copy from: {e}"))?;
                self.memory.check(to, num_bytes).map_err(|e| format!("copy to: {e}"))?;
                if to.0.abs_diff(from.0) < num_bytes as u64 {
                    return Err(format!("copy: {num_bytes} bytes at {from:?} overlap {to:?}"));
                }
                self.copy(from.as_ptr(), to.as_mut_ptr(), num_bytes);
                Ok(())
            }
            Queued::Zero { to, num_bytes } => {
                self.memory.check(to, num_bytes).map_err(|e| format!("zero: {e}"))?;
                // SAFETY: checked to lie in one allocation.
                unsafe { to.as_mut_ptr::<u8>().write_bytes(0, num_bytes) };
                Ok(())
            }
            Queued::Wait(_) | Queued::Mark => Ok(()),
        }
    }

    fn launch(&mut self, launch: &Launch<'_>) -> std::result::Result<(), String> {
        self.num_launches += 1;
        let name = launch.kernel.name;
        *self.counters.launches.entry(name).or_default() += 1;
        let seed =
            mix(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.num_launches));
        // SAFETY: the promise of whoever enqueued it.
        let outcome = unsafe { self.machine.launch(launch, self.memory.ranges(), seed) };
        let outcome = outcome.and_then(|num_mmas| {
            self.memory.check_guards().map_err(|e| format!("kernel {name}: {e}"))?;
            Ok(num_mmas)
        });
        self.counters.num_mmas += outcome.map_err(|cause| {
            format!(
                "{cause} (launch {} with seed {}, grid {:?} of {} threads)",
                self.num_launches, self.seed, launch.grid, launch.num_threads
            )
        })?;
        Ok(())
    }

    fn copy(&mut self, from: *const u8, to: *mut u8, num_bytes: usize) {
        self.counters.num_copies += 1;
        // SAFETY: device memory was checked; host memory is the promise of whoever enqueued it.
        unsafe { std::ptr::copy_nonoverlapping(from, to, num_bytes) };
    }

    fn replay(&mut self, stream: StreamId, graph: GraphId) -> Result<()> {
        let Some(commands) = self.graphs.get(graph.0 as usize).cloned() else {
            return failed(format!("replay: no graph has the id {}", graph.0));
        };
        self.counters.num_replays += 1;
        let stream = self.stream(stream)?;
        for command in commands {
            stream.push(command);
        }
        Ok(())
    }

    /// Where the stream ends now.
    fn end_of(&mut self, id: StreamId) -> Result<Point> {
        let num_commands = self.stream(id)?.num_commands();
        Ok(Point { stream: id, num_commands })
    }
}

impl Driver for Emulator {
    fn device(&self) -> &Device {
        &self.device
    }

    fn memory(&self) -> Result<Memory> {
        Ok(self.working()?.memory.memory())
    }

    fn allocate(&self, num_bytes: usize) -> Result<DevicePtr> {
        self.working()?.memory.allocate(num_bytes)
    }

    fn allocate_pinned(&self, num_bytes: usize) -> Result<NonNull<u8>> {
        self.working()?.memory.allocate_pinned(num_bytes)
    }

    unsafe fn free(&self, memory: DevicePtr) {
        // SAFETY: the caller's promise.
        unsafe { self.lock().memory.free(memory) }
    }

    unsafe fn free_pinned(&self, memory: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { self.lock().memory.free_pinned(memory) }
    }

    fn kernel(&self, name: &str) -> Result<KernelId> {
        let variant = self.ids.get(format!("{name}{}", self.variant).as_str());
        let found = variant.or_else(|| self.ids.get(name)).copied();
        found.ok_or_else(|| DriverError::Failed(format!("no kernel is called {name}")))
    }

    fn prepare_matmul(&self, _: &MatmulShape) -> Result<Option<MatmulId>> {
        self.working().map(|_| None)
    }

    fn create_stream(&self) -> Result<StreamId> {
        let mut state = self.working()?;
        state.streams.push(Stream::default());
        Ok(StreamId(state.streams.len() as u32 - 1))
    }

    fn create_event(&self) -> Result<EventId> {
        Ok(self.working()?.events.create())
    }

    unsafe fn enqueue(&self, id: StreamId, command: Command<'_>) -> Result<()> {
        let mut state = self.working()?;
        if state.stream(id)?.is_capturing() && !is_capturable(&command) {
            return failed(format!("a capture cannot take {command:?}"));
        }
        let queued = match command {
            Command::Launch { .. } => self.check_launch(&command)?,
            Command::Matmul { .. } => return failed("no matmul was prepared".to_owned()),
            Command::CopyIn { to, from, num_bytes } => Queued::CopyIn { to, from, num_bytes },
            Command::CopyOut { to, from, num_bytes } => Queued::CopyOut { to, from, num_bytes },
            Command::Copy { to, from, num_bytes } => Queued::Copy { to, from, num_bytes },
            Command::Zero { to, num_bytes } => Queued::Zero { to, num_bytes },
            Command::Record(event) => {
                state.stream(id)?.push(Queued::Mark);
                let point = state.end_of(id)?;
                return state.events.record(event, point).map_err(DriverError::Failed);
            }
            Command::Wait(event) => {
                match state.events.latest(event).map_err(DriverError::Failed)? {
                    Some(point) => Queued::Wait(point),
                    None => return Ok(()),
                }
            }
            Command::Replay(graph) => return state.replay(id, graph),
        };
        state.stream(id)?.push(queued);
        Ok(())
    }

    fn synchronize(&self, stream: StreamId, until: Option<EventId>) -> Result<()> {
        let mut state = self.working()?;
        if state.stream(stream)?.is_capturing() {
            return failed("synchronize: the stream is being captured".to_owned());
        }
        let point = match until {
            None => Some(state.end_of(stream)?),
            Some(event) => state.events.latest(event).map_err(DriverError::Failed)?,
        };
        point.map_or(Ok(()), |point| state.run_to(point))
    }

    fn begin_capture(&self, stream: StreamId) -> Result<()> {
        let mut state = self.working()?;
        let stream = state.stream(stream)?;
        if stream.is_capturing() {
            return failed("begin_capture: the stream is being captured already".to_owned());
        }
        stream.begin_capture();
        Ok(())
    }

    fn end_capture(&self, stream: StreamId) -> Result<GraphId> {
        let mut state = self.working()?;
        let Some(commands) = state.stream(stream)?.end_capture() else {
            return failed("end_capture: the stream is not being captured".to_owned());
        };
        state.graphs.push(commands);
        Ok(GraphId(state.graphs.len() as u32 - 1))
    }
}
