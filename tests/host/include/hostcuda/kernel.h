// What nvcc includes by itself before the first line of a .cu file; CMake precompiles this and does the same.
#pragma once

#include "atomics.h"
#include "builtins.h"
#include "launch.h"
#include "mutants.h"
#include "warp.h"
