// GCC's headers ask glibc, from 2.32 on, whether the process has one thread, and then count references without atomics.
// An older glibc does not say, and torch has threads anyway: no.
extern "C" {
char __libc_single_threaded = 0;
}
