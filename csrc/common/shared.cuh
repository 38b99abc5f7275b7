// Shared memory, declared so that the host execution of the tests can give every block its own.
#pragma once

// PO_SHARED(Array, name): one `name` of type Array for the block; Array has no comma outside brackets.
// PO_DYNAMIC_SHARED(name): `name` points to the bytes that the launch asked for, 16-byte aligned.
#ifdef __CUDACC__
#define PO_SHARED(Array, name) __shared__ Array name
#define PO_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#else
#include <hostcuda/shared.h>
#endif
