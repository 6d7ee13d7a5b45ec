// A driver and a cuBLASLt without a device, for what the host does with them.
//
// Device memory is host memory, copies happen at once, kernels are written to the log that the
// environment names and do nothing. A "module" is text: a name and a number of parameter bytes a
// line. cuBLASLt multiplies column-major matrices by plain loops, as its manual says.
// -D NO_DEVICE, OLD_DRIVER, OLD_DEVICE, BARE (no calls but the first), BROKEN (allocations fail,
// synchronisation faults) make other drivers of it.
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
enum { OK = 0, OUT_OF_MEMORY = 2, NO_DEVICE_HERE = 100, NOT_FOUND = 500, BAD_ADDRESS = 700 };

// ---- what every driver has --------------------------------------------------------------------

Result cuInit(unsigned flags) {
#ifdef NO_DEVICE
    return NO_DEVICE_HERE;
#else
    return flags;
#endif
}

Result cuDriverGetVersion(int* version) {
#ifdef OLD_DRIVER
    *version = 12040;
#else
    *version = 13000;
#endif
    return OK;
}

Result cuGetErrorName(Result error, const char** text) {
    *text = error == BAD_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_SOME";
    return OK;
}

Result cuGetErrorString(Result error, const char** text) {
    *text = error == BAD_ADDRESS ? "an illegal memory access was encountered" : "some error";
    return OK;
}

#ifndef BARE

static void note(const char* format, ...) {
    const char* path = getenv("FAKE_CUDA_LOG");
    FILE* log = path ? fopen(path, "a") : NULL;
    if (!log) return;
    va_list arguments;
    va_start(arguments, format);
    vfprintf(log, format, arguments);
    va_end(arguments);
    fputc('\n', log);
    fclose(log);
}

// ---- devices ----------------------------------------------------------------------------------

Result cuDeviceGetCount(int* count) { return *count = 1, OK; }
Result cuDeviceGet(int* device, int ordinal) { return *device = ordinal, OK; }
Result cuDeviceGetName(char* name, int length, int device) {
    (void)device;
    return snprintf(name, length, "Fake H100"), OK;
}
Result cuDeviceGetAttribute(int* value, int which, int device) {
    (void)device;
    switch (which) {
        case 16: *value = 132; break;          // multiprocessors
        case 38: *value = 50 << 20; break;     // cache
#ifdef OLD_DEVICE
        case 75: *value = 7; break;            // compute capability
        case 76: *value = 5; break;
#else
        case 75: *value = 9; break;
        case 76: *value = 0; break;
#endif
        case 97: *value = 227 << 10; break;    // shared memory of a block
        default: *value = 0;
    }
    return OK;
}
Result cuDevicePrimaryCtxRetain(void** context, int device) { return *context = (void*)8, device; }
Result cuDevicePrimaryCtxRelease_v2(int device) { return note("release"), device; }
Result cuCtxSetCurrent(void* context) { return note("bind %p", context), OK; }
Result cuCtxSynchronize(void) { return OK; }
Result cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    return *least = 0, *greatest = -5, OK;
}

// ---- memory -----------------------------------------------------------------------------------

Result cuMemGetInfo_v2(size_t* left, size_t* total) {
    return *left = 60ull << 30, *total = 80ull << 30, OK;
}
Result cuMemAlloc_v2(uint64_t* memory, size_t bytes) {
#ifdef BROKEN
    return *memory = bytes, OUT_OF_MEMORY;
#else
    *memory = (uint64_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
    return OK;
#endif
}
Result cuMemFree_v2(uint64_t memory) { return free((void*)memory), OK; }
Result cuMemHostAlloc(void** memory, size_t bytes, unsigned flags) {
    note("pinned %zu flags %u", bytes, flags);
    *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    memset(*memory, 0xaa, bytes);
    return OK;
}
Result cuMemFreeHost(void* memory) { return free(memory), OK; }

// ---- streams, events, graphs ------------------------------------------------------------------

typedef struct Copy {
    void* to;
    const void* from;
    size_t bytes;
    char text[512];
} Copy;
typedef struct Graph {
    Copy steps[64];
    int count;
} Graph;
typedef struct Stream {
    int number;
    Graph* capture;
} Stream;
static int num_streams;

// Does a step now, or notes it down for a replay. No `from`: zeros; no `to`: only the text.
static Result step(Stream* stream, Copy copy) {
    if (stream->capture) {
        stream->capture->steps[stream->capture->count++] = copy;
        return OK;
    }
    note("%s", copy.text);
    if (copy.to && copy.from) memcpy(copy.to, copy.from, copy.bytes);
    if (copy.to && !copy.from) memset(copy.to, 0, copy.bytes);
    return OK;
}
static Result copy_step(Stream* stream, void* to, const void* from, size_t bytes, const char* what) {
    Copy copy = {to, from, bytes, ""};
    snprintf(copy.text, sizeof copy.text, "%s %zu on %d", what, bytes, stream->number);
    return step(stream, copy);
}

Result cuStreamCreateWithPriority(Stream** stream, unsigned flags, int priority) {
    *stream = calloc(1, sizeof **stream);
    (*stream)->number = num_streams++;
    note("stream %d flags %u priority %d", (*stream)->number, flags, priority);
    return OK;
}
Result cuStreamDestroy_v2(Stream* stream) { return free(stream), OK; }
Result cuStreamSynchronize(Stream* stream) {
    (void)stream;
#ifdef BROKEN
    return BAD_ADDRESS;
#else
    return OK;
#endif
}
Result cuEventCreate(int** event, unsigned flags) {
    note("event flags %u", flags);
    return *event = calloc(1, sizeof **event), OK;
}
Result cuEventDestroy_v2(int* event) { return free(event), OK; }
Result cuEventRecord(int* event, Stream* stream) {
    (void)event;
    return note("record on %d", stream->number), OK;
}
Result cuEventSynchronize(int* event) { return note("wait for event"), event ? OK : NOT_FOUND; }
Result cuStreamWaitEvent(Stream* stream, int* event, unsigned flags) {
    (void)event;
    return note("wait on %d flags %u", stream->number, flags), OK;
}
Result cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, Stream* stream) {
    return copy_step(stream, (void*)to, from, bytes, "in");
}
Result cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, Stream* stream) {
    return copy_step(stream, to, (void*)from, bytes, "out");
}
Result cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream* stream) {
    return copy_step(stream, (void*)to, (void*)from, bytes, "copy");
}
Result cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, Stream* stream) {
    if (value) return memset((void*)to, value, bytes), OK;
    return copy_step(stream, (void*)to, NULL, bytes, "zero");
}
Result cuStreamBeginCapture_v2(Stream* stream, int mode) {
    note("capture on %d mode %d", stream->number, mode);
    return stream->capture = calloc(1, sizeof(Graph)), OK;
}
Result cuStreamEndCapture(Stream* stream, Graph** graph) {
    *graph = stream->capture;
    return stream->capture = NULL, OK;
}
Result cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, unsigned long long flags) {
    *executable = malloc(sizeof **executable);
    **executable = *graph;
    return (Result)flags;
}
Result cuGraphUpload(Graph* graph, Stream* stream) {
    return note("upload %d on %d", graph->count, stream->number), OK;
}
Result cuGraphLaunch(Graph* graph, Stream* stream) {
    note("replay %d on %d", graph->count, stream->number);
    for (int i = 0; i < graph->count; i++) step(stream, graph->steps[i]);
    return OK;
}
Result cuGraphDestroy(Graph* graph) { return free(graph), OK; }
Result cuGraphExecDestroy(Graph* graph) { return free(graph), OK; }

// ---- kernels ----------------------------------------------------------------------------------

typedef struct Function {
    char name[64];
    size_t params_bytes;
} Function;
typedef struct Module {
    Function functions[16];
    unsigned count;
} Module;

Result cuModuleLoadData(Module** module, const char* text) {
    *module = calloc(1, sizeof **module);
    Function* function = (*module)->functions;
    int length;
    while (sscanf(text, "%63s %zu\n%n", function->name, &function->params_bytes, &length) == 2) {
        text += length;
        function++;
        (*module)->count++;
    }
    return OK;
}
Result cuModuleUnload(Module* module) { return free(module), OK; }
Result cuModuleGetFunctionCount(unsigned* count, Module* module) {
    return *count = module->count, OK;
}
Result cuModuleEnumerateFunctions(Function** functions, unsigned count, Module* module) {
    for (unsigned i = 0; i < count; i++) functions[i] = &module->functions[i];
    return OK;
}
Result cuFuncLoad(Function* function) { return function ? OK : NOT_FOUND; }
Result cuFuncGetName(const char** name, Function* function) { return *name = function->name, OK; }
Result cuFuncGetParamInfo(Function* function, size_t index, size_t* offset, size_t* bytes) {
    return *offset = 0, *bytes = function->params_bytes, (Result)index;
}
Result cuFuncGetAttribute(int* value, int which, Function* function) {
    (void)function;
    return *value = which == 1 ? 1024 : 0, OK;
}
Result cuFuncSetAttribute(Function* function, int which, int value) {
    note("%s attribute %d = %d", function->name, which, value);
    return which == 8 && value > (227 << 10) - 1024 ? NOT_FOUND : OK;
}

typedef struct Attribute {
    int id;
    char pad[4];
    union { char bytes[64]; int number; } value;
} Attribute;
typedef struct Config {
    unsigned grid[3], block[3], shared_bytes;
    Stream* stream;
    Attribute* attributes;
    unsigned num_attributes;
} Config;

Result cuLaunchKernelEx(const Config* config, Function* function, void** params, void** extra) {
    Copy launch = {NULL, NULL, 0, ""};
    int length = snprintf(launch.text, sizeof launch.text, "launch %s <%u %u %u> <%u %u %u> %u on %d",
                          function->name, config->grid[0], config->grid[1], config->grid[2],
                          config->block[0], config->block[1], config->block[2],
                          config->shared_bytes, config->stream->number);
    for (unsigned i = 0; i < config->num_attributes; i++) {
        const Attribute* attribute = &config->attributes[i];
        length += snprintf(launch.text + length, sizeof launch.text - length, " attribute %d = %d",
                           attribute->id, attribute->value.number);
    }
    length += snprintf(launch.text + length, sizeof launch.text - length, " params ");
    for (size_t i = 0; i < function->params_bytes; i++) {
        const unsigned char* bytes = params[0];
        length += snprintf(launch.text + length, sizeof launch.text - length, "%02x", bytes[i]);
    }
    step(config->stream, launch);
    return extra ? NOT_FOUND : OK;
}

// ---- cuBLASLt ---------------------------------------------------------------------------------

#ifndef NO_CUBLASLT

typedef struct Layout {
    int type;
    uint64_t rows, cols;
    int64_t stride;
} Layout;
typedef struct Description {
    int transpose_a, transpose_b, epilogue;
    const uint16_t* bias;
} Description;
typedef struct Algorithm {
    uint64_t data[8];
} Algorithm;
typedef struct Found {
    Algorithm algorithm;
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
} Found;
enum { F32 = 0, BF16 = 14, UNSUPPORTED = 15 };

// What the last product took, by the clock of the events: the second guess is the fast one.
static float last_milliseconds = 1;

size_t cublasLtGetVersion(void) { return 130100; }
int cublasLtCreate(void** handle) { return *handle = (void*)8, OK; }
int cublasLtDestroy(void* handle) { return handle ? OK : UNSUPPORTED; }
int cublasLtMatmulPreferenceCreate(void** preference) { return *preference = malloc(1), OK; }
int cublasLtMatmulPreferenceDestroy(void* preference) { return free(preference), OK; }
int cublasLtMatmulPreferenceSetAttribute(void* preference, int which, const void* value, size_t bytes) {
    uint64_t number = 0;
    memcpy(&number, value, bytes);
    note("preference %d = %llu", which, (unsigned long long)number);
    return preference ? OK : UNSUPPORTED;
}
int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t cols, int64_t stride) {
    *layout = malloc(sizeof **layout);
    **layout = (Layout){type, rows, cols, stride};
    return OK;
}
int cublasLtMatrixLayoutDestroy(Layout* layout) { return free(layout), OK; }
int cublasLtMatmulDescCreate(Description** description, int compute, int scale) {
    *description = calloc(1, sizeof **description);
    return compute == 68 && scale == F32 ? OK : UNSUPPORTED;
}
int cublasLtMatmulDescDestroy(Description* description) { return free(description), OK; }
int cublasLtMatmulDescSetAttribute(Description* d, int which, const void* value, size_t bytes) {
    switch (which) {
        case 3: return memcpy(&d->transpose_a, value, bytes), OK;
        case 4: return memcpy(&d->transpose_b, value, bytes), OK;
        case 7: return memcpy(&d->epilogue, value, bytes), OK;
        case 8: return memcpy(&d->bias, value, bytes), OK;
        default: return UNSUPPORTED;
    }
}
int cublasLtMatmulAlgoGetHeuristic(void* handle, Description* d, Layout* a, Layout* b, Layout* c,
                                   Layout* out, void* preference, int max, Found* found, int* count) {
    (void)handle, (void)d, (void)a, (void)b, (void)c, (void)out, (void)preference;
    note("heuristic for %llu rows", (unsigned long long)out->cols);
    *count = max < 2 ? max : 2;
    for (int i = 0; i < *count; i++) found[i] = (Found){.algorithm = {{i}}};
    return OK;
}
int cublasLtMatmulAlgoCheck(void* handle, Description* d, Layout* a, Layout* b, Layout* c,
                            Layout* out, const Algorithm* algorithm, Found* found) {
    (void)handle, (void)d, (void)a, (void)b, (void)c, (void)out;
    return *found = (Found){.algorithm = *algorithm}, OK;
}

static float read_number(const void* matrix, const Layout* layout, uint64_t row, uint64_t col) {
    uint64_t index = col * layout->stride + row;
    if (layout->type == F32) return ((const float*)matrix)[index];
    uint32_t bits = (uint32_t)((const uint16_t*)matrix)[index] << 16;
    float number;
    return memcpy(&number, &bits, 4), number;
}
static void write_number(void* matrix, const Layout* layout, uint64_t row, uint64_t col, float x) {
    uint64_t index = col * layout->stride + row;
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (layout->type == F32) ((float*)matrix)[index] = x;
    else ((uint16_t*)matrix)[index] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

int cublasLtMatmul(void* handle, Description* d, const float* alpha, const void* a, Layout* a_layout,
                   const void* b, Layout* b_layout, const float* beta, const void* c, Layout* c_layout,
                   void* out, Layout* layout, const Algorithm* algorithm, void* workspace,
                   size_t workspace_bytes, Stream* stream) {
    (void)handle, (void)c, (void)c_layout, (void)workspace, (void)stream;
    last_milliseconds = algorithm->data[0] == 1 ? 1 : 2;
    note("matmul by %llu, %zu bytes of scratch", (unsigned long long)algorithm->data[0], workspace_bytes);
    Layout bias_layout = {BF16, layout->rows, 1, layout->rows};
    uint64_t inner = d->transpose_a ? a_layout->rows : a_layout->cols;
    for (uint64_t row = 0; row < layout->rows; row++) {
        for (uint64_t col = 0; col < layout->cols; col++) {
            float sum = 0;
            for (uint64_t i = 0; i < inner; i++) {
                float x = d->transpose_a ? read_number(a, a_layout, i, row)
                                         : read_number(a, a_layout, row, i);
                float y = d->transpose_b ? read_number(b, b_layout, col, i)
                                         : read_number(b, b_layout, i, col);
                sum += x * y;
            }
            sum *= *alpha;
            if (d->epilogue & 4) sum += read_number(d->bias, &bias_layout, row, 0);
            if (d->epilogue & 32)
                sum = 0.5f * sum * (1 + tanhf(0.79788456f * (sum + 0.044715f * sum * sum * sum)));
            write_number(out, layout, row, col, sum);
        }
    }
    return *beta == 0 ? OK : UNSUPPORTED;
}
Result cuEventElapsedTime_v2(float* milliseconds, int* start, int* end) {
    (void)start, (void)end;
    return *milliseconds = last_milliseconds, OK;
}

#else
Result cuEventElapsedTime_v2(float* milliseconds, int* start, int* end) {
    (void)start, (void)end;
    return *milliseconds = 1, OK;
}
#endif
#endif
