# A library that a package index takes: it loads wherever torch's own wheels do, from glibc 2.28 on (manylinux_2_28).
function(perceptual_ops_link_for_manylinux target)
  find_package(Python COMPONENTS Interpreter REQUIRED)
  set(stubs "${CMAKE_BINARY_DIR}/manylinux")
  execute_process(COMMAND "${Python_EXECUTABLE}" "${CMAKE_SOURCE_DIR}/cmake/manylinux_stubs.py"
    "${stubs}" "${CMAKE_CXX_COMPILER}" "${CMAKE_READELF}" COMMAND_ERROR_IS_FATAL ANY)
  target_link_directories(${target} BEFORE PRIVATE "${stubs}")
  target_sources(${target} PRIVATE csrc/common/older_glibc.cpp)
  # Of libstdc++ only what throws and catches is shared with torch, through which our errors travel. What nothing
  # uses goes, and with it what libstdc++.a asks of a newer glibc.
  target_link_libraries(${target} PRIVATE "${stubs}/libcxxabi.so")
  target_link_options(${target} PRIVATE -static-libstdc++ -Wl,--gc-sections -Wl,--strip-all)
endfunction()
