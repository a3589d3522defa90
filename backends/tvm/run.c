/* Runs a model that was compiled with TVM where there is no Python: needs libtvm_runtime.so and libtvm_ffi.so, nothing else.
 *
 * run [FOLDER]                           runs the stored inputs and compares; 1 if an output is off
 * run FOLDER inputs.npz OUT              runs other inputs, by name as np.savez stores them; writes OUT0.npy, OUT1.npy, …
 *
 * model.h, beside this file, has the names, types and shapes; the Makefile builds the program. */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

enum { ALIGNMENT = 64, POOLED = 2, AXES = 16 };

typedef struct {
    const char *name;
    const char *type; /* as NumPy spells it: "<f4" */
    int rank;
    int64_t shape[AXES];
} Row;

#include "model.h" /* INPUTS, OUTPUTS, inputs[], outputs[] */

static _Noreturn void fail(const char *what, const char *where)
{
    fprintf(stderr, "run: %s: %s\n", what, where);
    exit(2);
}

/* Arrays. */

typedef struct {
    char name[256];
    char type[8];
    int rank;
    int64_t shape[AXES];
    size_t bytes;
    void *data;
} Array;

typedef struct {
    int count;
    Array *items;
} Arrays;

static void *reserve(size_t bytes)
{
    void *found = NULL;
    if (posix_memalign(&found, ALIGNMENT, bytes ? bytes : 1))
        fail("not enough memory", "an array");
    return found;
}

static uint64_t number(const unsigned char *at, int bytes)
{
    uint64_t found = 0;
    for (int k = bytes; k-- > 0;)
        found = found << 8 | at[k];
    return found;
}

/* Reads the text in front of an array's elements, {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }. */
static void read_header(Array *array, const char *text, const char *path)
{
    const char *type = strstr(text, "'descr': '"), *shape = strstr(text, "'shape': (");
    if (!type || !shape || !strstr(text, "'fortran_order': False"))
        fail("an array is not stored row by row, with a plain type", path);
    snprintf(array->type, sizeof array->type, "%.3s", type + 10);
    array->rank = 0;
    array->bytes = (size_t)(array->type[2] - '0');
    for (const char *at = shape + 10; *at && *at != ')';) {
        if (*at < '0' || *at > '9') {
            ++at;
            continue;
        }
        char *end;
        if (array->rank == AXES)
            fail("an array has more axes than are known here", path);
        array->shape[array->rank] = strtoll(at, &end, 10);
        array->bytes *= (size_t)array->shape[array->rank++];
        at = end;
    }
}

static void read_array(Array *array, const unsigned char *at, uint64_t size, const char *path)
{
    char text[1024];
    if (size < 10 || memcmp(at, "\x93NUMPY", 6))
        fail("a member is not an array", path);
    size_t start = at[6] > 1 ? 12 : 10, length = (size_t)number(at + 8, at[6] > 1 ? 4 : 2);
    if (length >= sizeof text || start + length > size)
        fail("an array's header is too long", path);
    memcpy(text, at + start, length);
    text[length] = 0;
    read_header(array, text, path);
    if (start + length + array->bytes > size)
        fail("the file ends within an array", path);
    array->data = reserve(array->bytes);
    memcpy(array->data, at + start + length, array->bytes);
}

/* Reads what np.savez writes: members one after the other, not compressed. */
static Arrays read_arrays(const char *path)
{
    struct stat about;
    int file = open(path, O_RDONLY);
    if (file < 0 || fstat(file, &about))
        fail("cannot be read", path);
    const size_t size = (size_t)about.st_size;
    const unsigned char *all = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (all == MAP_FAILED)
        fail("cannot be read", path);
    Arrays found = {0, NULL};
    for (size_t at = 0; at + 30 < size && number(all + at, 4) == 0x04034b50;) {
        const unsigned char *head = all + at;
        uint64_t packed = number(head + 18, 4), plain = number(head + 22, 4);
        const size_t name = (size_t)number(head + 26, 2), more = (size_t)number(head + 28, 2);
        const unsigned char *extra = head + 30 + name;
        if (at + 30 + name + more > size || number(head + 8, 2) || number(head + 6, 2) & 8)
            fail("is not what np.savez writes, without compression", path);
        if (plain == 0xffffffff && more >= 20 && number(extra, 2) == 1) {
            plain = number(extra + 4, 8);
            packed = number(extra + 12, 8);
        }
        at += 30 + name + more;
        if (packed != plain || plain > size - at || name < 5 || name - 4 >= sizeof found.items->name)
            fail("is not what np.savez writes, without compression", path);
        found.items = realloc(found.items, (size_t)(found.count + 1) * sizeof *found.items);
        if (!found.items)
            fail("not enough memory", path);
        Array *array = &found.items[found.count++];
        memcpy(array->name, head + 30, name - 4); /* without .npy */
        array->name[name - 4] = 0;
        read_array(array, all + at, plain, path);
        at += (size_t)plain;
    }
    munmap((void *)(uintptr_t)all, size);
    return found;
}

static Array *find(Arrays arrays, const char *name, const char *path)
{
    for (int k = 0; k < arrays.count; ++k)
        if (!strcmp(arrays.items[k].name, name))
            return &arrays.items[k];
    fprintf(stderr, "run: '%s' is missing in %s\n", name, path);
    exit(2);
}

static void expect(const Array *array, const Row *row)
{
    if (strcmp(array->type, row->type) || array->rank != row->rank ||
        memcmp(array->shape, row->shape, (size_t)row->rank * sizeof *row->shape))
        fail("an input has another type or shape than the model was compiled for", row->name);
}

static void write_array(const Array *array, const char *prefix, int number)
{
    char path[4096], head[512], shape[24 * AXES] = "";
    snprintf(path, sizeof path, "%s%d.npy", prefix, number);
    FILE *file = fopen(path, "wb");
    if (!file)
        fail("cannot be written", path);
    for (int k = 0; k < array->rank; ++k)
        snprintf(shape + strlen(shape), 23, "%lld, ", (long long)array->shape[k]);
    memset(head, ' ', sizeof head);
    const int length = snprintf(head, sizeof head, "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }",
                                array->type, shape);
    head[length] = ' ';
    head[501] = '\n';
    fwrite("\x93NUMPY\1\0\xf6\1", 1, 10, file);
    fwrite(head, 1, 502, file);
    if (fwrite(array->data, 1, array->bytes, file) != array->bytes || fclose(file))
        fail("cannot be written", path);
}

/* TVM. */

static const char *at_fault = "TVM";

static void check(int status)
{
    TVMFFIObjectHandle error = NULL;
    if (!status)
        return;
    TVMFFIErrorMoveFromRaised(&error);
    const TVMFFIErrorCell *cell = (const TVMFFIErrorCell *)(const void *)((const char *)error + sizeof(TVMFFIObject));
    fprintf(stderr, "run: %s: %.*s: %.*s\n", at_fault, (int)cell->kind.size, cell->kind.data, (int)cell->message.size,
            cell->message.data);
    exit(2);
}

static TVMFFIAny integer(int64_t value)
{
    TVMFFIAny found = {.type_index = kTVMFFIInt, .zero_padding = 0, .v_int64 = value};
    return found;
}

static TVMFFIAny object(TVMFFIObjectHandle handle)
{
    TVMFFIAny found = {.type_index = ((TVMFFIObject *)handle)->type_index, .zero_padding = 0, .v_obj = handle};
    return found;
}

static TVMFFIAny text(const char *words)
{
    TVMFFIAny found = {.type_index = kTVMFFIRawStr, .zero_padding = 0, .v_c_str = words};
    return found;
}

static TVMFFIAny call(TVMFFIObjectHandle function, TVMFFIAny *arguments, int count)
{
    TVMFFIAny result = {.type_index = kTVMFFINone, .zero_padding = 0, .v_int64 = 0};
    check(TVMFFIFunctionCall(function, arguments, count, &result));
    return result;
}

static TVMFFIObjectHandle global(const char *name)
{
    TVMFFIObjectHandle found = NULL;
    const TVMFFIByteArray spelled = {name, strlen(name)};
    at_fault = name;
    check(TVMFFIFunctionGetGlobal(&spelled, &found));
    if (!found)
        fail("TVM's runtime has no such function", name);
    return found;
}

static TVMFFIObjectHandle function_of(TVMFFIAny module, const char *name)
{
    TVMFFIAny arguments[] = {module, text(name), {.type_index = kTVMFFIBool, .zero_padding = 0, .v_int64 = 1}};
    const TVMFFIAny found = call(global("ffi.ModuleGetFunction"), arguments, 3);
    if (found.type_index == kTVMFFINone)
        fail("the library has no such function", name);
    return found.v_obj;
}

/* Returns the function of a library, in a virtual machine for this processor. */
static TVMFFIObjectHandle load(const char *path)
{
    TVMFFIAny where = text(path);
    const TVMFFIAny library = call(global("ffi.ModuleLoadFromFile"), &where, 1);
    const TVMFFIAny machine = call(function_of(library, "vm_load_executable"), NULL, 0);
    TVMFFIAny device[] = {integer(kDLCPU), integer(0), integer(POOLED)};
    call(function_of(machine, "vm_initialization"), device, 3);
    return function_of(machine, "main");
}

static DLDataType type_of(const Array *array)
{
    static const char kinds[] = "iufb";
    static const uint8_t codes[] = {kDLInt, kDLUInt, kDLFloat, kDLBool};
    const char *kind = strchr(kinds, array->type[1]);
    if (!kind || !*kind)
        fail("an array is of a type that is not known", array->name);
    const DLDataType found = {codes[kind - kinds], (uint8_t)(8 * (array->type[2] - '0')), 1};
    return found;
}

static void keep(DLManagedTensor *self)
{
    (void)self; /* arrays live as long as the program */
}

static TVMFFIAny tensor(const Array *array)
{
    DLManagedTensor *made = reserve(sizeof *made);
    memset(made, 0, sizeof *made);
    made->dl_tensor.data = array->data;
    made->dl_tensor.device.device_type = kDLCPU;
    made->dl_tensor.ndim = array->rank;
    made->dl_tensor.dtype = type_of(array);
    made->dl_tensor.shape = (int64_t *)(uintptr_t)array->shape;
    made->deleter = keep;
    TVMFFIObjectHandle found = NULL;
    check(TVMFFITensorFromDLPack(made, ALIGNMENT, 1, &found));
    return object(found);
}

static Array output(TVMFFIAny results, int number)
{
    TVMFFIAny arguments[] = {results, integer(number)};
    const TVMFFIAny item = call(global("ffi.ArrayGetItem"), arguments, 2);
    const DLTensor *found = (const DLTensor *)(const void *)((const char *)item.v_obj + sizeof(TVMFFIObject));
    const Row *row = &outputs[number];
    Array made = {.rank = row->rank, .data = (char *)found->data + found->byte_offset};
    snprintf(made.name, sizeof made.name, "%s", row->name);
    snprintf(made.type, sizeof made.type, "%s", row->type);
    memcpy(made.shape, row->shape, sizeof made.shape);
    made.bytes = (size_t)(row->type[2] - '0');
    for (int k = 0; k < row->rank; ++k)
        made.bytes *= (size_t)row->shape[k];
    return made;
}

/* Comparison. */

static double half(uint16_t bits)
{
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double size = exponent == 31 ? (fraction ? NAN : INFINITY)
                        : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                       : ldexp(fraction, -24);
    return bits >> 15 ? -size : size;
}

static double element(const Array *array, size_t k)
{
    const void *data = array->data;
    switch (array->type[1] << 8 | array->type[2]) {
    case 'f' << 8 | '2': return half(((const uint16_t *)data)[k]);
    case 'f' << 8 | '4': return (double)((const float *)data)[k];
    case 'f' << 8 | '8': return ((const double *)data)[k];
    case 'i' << 8 | '1': return ((const int8_t *)data)[k];
    case 'i' << 8 | '2': return ((const int16_t *)data)[k];
    case 'i' << 8 | '4': return ((const int32_t *)data)[k];
    case 'i' << 8 | '8': return (double)((const int64_t *)data)[k];
    case 'u' << 8 | '2': return ((const uint16_t *)data)[k];
    case 'u' << 8 | '4': return ((const uint32_t *)data)[k];
    case 'u' << 8 | '8': return (double)((const uint64_t *)data)[k];
    default: return ((const uint8_t *)data)[k];
    }
}

/* Returns the largest difference over the root mean square of what is expected; what is not a number is never right. */
static double error_of(const Array *found, const Array *wanted)
{
    const size_t count = found->bytes / (size_t)(found->type[2] - '0');
    double worst = 0, squares = 0;
    for (size_t k = 0; k < count; ++k) {
        const double want = element(wanted, k), difference = fabs(element(found, k) - want);
        squares += want * want;
        if (!(difference <= worst)) /* also if it is no number, and then for good */
            worst = isnan(worst) ? worst : difference;
    }
    return count && squares > 0 ? worst / sqrt(squares / (double)count) : worst;
}

int main(int count, char **words)
{
    char path[4096], name[16];
    const char *folder = count > 1 ? words[1] : ".";
    const int checks = count < 4;
    snprintf(path, sizeof path, "%s/model.so", folder);
    TVMFFIObjectHandle run = load(path);
    snprintf(path, sizeof path, "%s/model.npz", folder);
    const Arrays weights = read_arrays(path);
    snprintf(path, sizeof path, "%s/check.npz", folder);
    const char *feeds = checks ? path : words[2];
    const Arrays given = read_arrays(feeds);
    TVMFFIAny *arguments = reserve((size_t)(INPUTS + weights.count) * sizeof *arguments);
    for (int k = 0; k < INPUTS; ++k) {
        snprintf(name, sizeof name, "x%d", k);
        const Array *array = find(given, checks ? name : inputs[k].name, feeds);
        expect(array, &inputs[k]);
        arguments[k] = tensor(array);
    }
    for (int k = 0; k < weights.count; ++k)
        arguments[INPUTS + k] = tensor(&weights.items[k]);
    at_fault = "the model";
    const TVMFFIAny results = call(run, arguments, INPUTS + weights.count);
    int wrong = 0;
    for (int k = 0; k < OUTPUTS; ++k) {
        const Array made = output(results, k);
        if (!checks) {
            write_array(&made, words[3], k);
            continue;
        }
        snprintf(name, sizeof name, "y%d", k);
        const double error = error_of(&made, find(given, name, feeds));
        printf("%s: relative error %.1e\n", outputs[k].name, error);
        wrong |= !(error <= limit);
    }
    return wrong;
}
