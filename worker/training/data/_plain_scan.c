/* Proves stretches of plain chat rows sound and gives each row a key, without making a Python object for what it reads.

   A plain row is what json.dumps, JSON.stringify or msgspec write of messages with role and text and nothing else:

       {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}

   with or without the spaces. Whatever is written otherwise is not wrong, only not proved: plain_rows.py looks at it. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define EACH(byte) (0x0101010101010101u * (byte))

typedef struct {
    const char *at, *end;
    uint64_t seen; /* the bits of all text, to tell whether any is beyond ASCII */
} Input;

enum Role { SYSTEM, DEVELOPER, USER, ASSISTANT, ROLES };
static const char *const ROLE_NAMES[ROLES] = {"system\"", "developer\"", "user\"", "assistant\""};

static int skip(Input *in, const char *expected) {
    size_t length = strlen(expected);
    if ((size_t)(in->end - in->at) < length || memcmp(in->at, expected, length) != 0) return 0;
    in->at += length;
    return 1;
}

static void skip_space(Input *in) {
    if (in->at < in->end && *in->at == ' ') in->at++;
}

/* Skips `separator`, which one space may follow, and then `expected`. */
static int skip_after(Input *in, const char *separator, const char *expected) {
    if (!skip(in, separator)) return 0;
    skip_space(in);
    return skip(in, expected);
}

static uint64_t load(const char *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* Returns 0 unless a byte of `word` is less than `bound`, by the borrow that the subtraction leaves in its high bit. */
static uint64_t less(uint64_t word, uint64_t bound) { return (word - EACH(bound)) & ~word & EACH(0x80); }

/* Returns 0 unless a byte of `word` ends a stretch of text: a quote, a backslash or a control character. */
static uint64_t special(uint64_t word) {
    return less(word, 0x20) | less(word ^ EACH('"'), 1) | less(word ^ EACH('\\'), 1);
}

/* Moves behind the closing quote of a string and sets `length` to that of its text. Only the escapes that encoders
   write for want of another spelling pass: two rows with one text have the same bytes then. */
static int skip_text(Input *in, size_t *length) {
    const char *start = in->at;
    for (;;) {
        for (uint64_t word; in->end - in->at >= 8 && !special(word = load(in->at)); in->at += 8) in->seen |= word;
        if (in->at >= in->end) return 0;
        unsigned char byte = (unsigned char)*in->at++;
        if (byte == '"') break;
        if (byte < 0x20) return 0;
        in->seen |= byte;
        if (byte == '\\' && (in->at >= in->end || !*in->at || !strchr("\"\\bfnrt", *in->at++))) return 0;
    }
    *length = (size_t)(in->at - 1 - start);
    return 1;
}

/* Whether a text surely holds more than white space. Some white space lies beyond ASCII, under these first bytes. */
static int holds_text(const char *text, size_t length) {
    for (const char *end = text + length; text < end; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte == '\\' && strchr("bfnrt", *++text)) continue;
        if (byte > 0xE3 || (byte > 0xC2 && byte < 0xE1) || (byte > 0x20 && byte < 0x7F)) return 1;
    }
    return 0;
}

static uint64_t mix(uint64_t key, uint64_t word) {
    key = (key ^ word) * 0x9E3779B97F4A7C15u;
    return key ^ (key >> 29);
}

static uint64_t mix_text(uint64_t key, const char *text, size_t length) {
    uint64_t last = 0;
    key = mix(key, length);
    for (; length >= 8; text += 8, length -= 8) key = mix(key, load(text));
    memcpy(&last, text, length);
    return mix(key, last);
}

static enum Role skip_role(Input *in) {
    enum Role role = SYSTEM;
    while (role < ROLES && !skip(in, ROLE_NAMES[role])) role++;
    return role;
}

/* Reads a row and its newline; `key` tells rows apart by roles and texts. */
static int skip_row(Input *in, uint64_t *key, Py_ssize_t *trained_turns) {
    enum Role role;
    *key = 0;
    if (!skip(in, "{\"messages\":")) return 0;
    skip_space(in);
    if (!skip(in, "[")) return 0;
    do {
        size_t length;
        if (!skip(in, "{\"role\":")) return 0;
        skip_space(in);
        if (!skip(in, "\"") || (role = skip_role(in)) == ROLES) return 0;
        if (!skip_after(in, ",", "\"content\":")) return 0;
        skip_space(in);
        if (!skip(in, "\"")) return 0;
        const char *text = in->at;
        if (!skip_text(in, &length) || !skip(in, "}")) return 0;
        if (role == ASSISTANT) {
            if (!holds_text(text, length)) return 0;
            ++*trained_turns;
        }
        *key = mix_text(mix(*key, role), text, length);
    } while (skip(in, ",") && (skip_space(in), 1));
    return role == ASSISTANT && skip(in, "]}\n");
}

/* Appends the key of every row up to the first line that is not proved, and moves there; 0 with an exception set. */
static int scan_rows(Input *in, PyObject *keys, Py_ssize_t *trained_turns) {
    while (in->at < in->end) {
        const char *line = in->at;
        Py_ssize_t trained = 0;
        uint64_t key;
        if (!skip_row(in, &key, &trained)) {
            in->at = line;
            return 1;
        }
        PyObject *number = PyLong_FromUnsignedLongLong(key);
        if (!number || PyList_Append(keys, number) < 0) {
            Py_XDECREF(number);
            return 0;
        }
        Py_DECREF(number);
        *trained_turns += trained;
    }
    return 1;
}

/* Whether `bytes` are UTF-8; leaves no exception. */
static int is_utf8(const char *bytes, Py_ssize_t length) {
    PyObject *text = PyUnicode_DecodeUTF8(bytes, length, "strict");
    if (!text) PyErr_Clear();
    Py_XDECREF(text);
    return text != NULL;
}

static PyObject *scan(PyObject *module, PyObject *args) {
    char *bytes;
    Py_ssize_t length, start, end, trained_turns = 0;
    PyObject *chunk, *keys;
    if (!PyArg_ParseTuple(args, "Snn", &chunk, &start, &end)) return NULL;
    if (PyBytes_AsStringAndSize(chunk, &bytes, &length) < 0) return NULL;
    if (start < 0 || end < start || end > length) return PyErr_Format(PyExc_IndexError, "outside the chunk");
    if (!(keys = PyList_New(0))) return NULL;
    Input in = {bytes + start, bytes + end, 0};
    if (!scan_rows(&in, keys, &trained_turns)) {
        Py_DECREF(keys);
        return NULL;
    }
    if (in.seen & EACH(0x80) && !is_utf8(bytes + start, in.at - bytes - start)) {
        PyList_SetSlice(keys, 0, PyList_Size(keys), NULL);
        in.at = bytes + start;
        trained_turns = 0;
    }
    return Py_BuildValue("Nnn", keys, trained_turns, (Py_ssize_t)(in.at - bytes));
}

static PyMethodDef methods[] = {
    {"scan", scan, METH_VARARGS,
     "Return the keys of the plain rows that chunk holds from start on, their trained turns, and where the first line\n"
     "up to end begins that is not proved to be one."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_plain_scan", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__plain_scan(void) { return PyModuleDef_Init(&module); }
