# CUDA as an optional language: SPILLWAY_CUDA_FOUND says whether the module is built, SPILLWAY_CUDA_WHY_NOT why not. The
# compiler is CMAKE_CUDA_COMPILER, CUDACXX, /usr/local/cuda/bin/nvcc or nvcc on the PATH; nothing else of a toolkit is
# needed than what lies beside it: its headers and the static runtime.
set(SPILLWAY_CUDA_FOUND FALSE)
if(SPILLWAY_CUDA STREQUAL "OFF")
  set(SPILLWAY_CUDA_WHY_NOT "SPILLWAY_CUDA is OFF")
  return()
endif()
if(SPILLWAY_SANITIZE)
  set(SPILLWAY_CUDA_WHY_NOT "nvcc knows no sanitizers")
  if(SPILLWAY_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SPILLWAY_CUDA=ON with SPILLWAY_SANITIZE: ${SPILLWAY_CUDA_WHY_NOT}")
  endif()
  return()
endif()

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND EXISTS /usr/local/cuda/bin/nvcc)
  set(CMAKE_CUDA_COMPILER /usr/local/cuda/bin/nvcc CACHE FILEPATH "CUDA compiler")
endif()
# Must be known before the language is. What 75 lacks takes a plain path; PTX serves what is newer than all of these.
# CUDAARCHS in the environment is CMake's own way to say otherwise.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
  set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90a-real 90-virtual CACHE STRING "GPU architectures")
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  set(SPILLWAY_CUDA_WHY_NOT "no working CUDA compiler was found")
  if(SPILLWAY_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SPILLWAY_CUDA=ON, but ${SPILLWAY_CUDA_WHY_NOT} (CMAKE_CUDA_COMPILER or CUDACXX name one).")
  endif()
  message(STATUS "The CUDA module is not built: ${SPILLWAY_CUDA_WHY_NOT}.")
  return()
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
  message(FATAL_ERROR "CUDA ${CMAKE_CUDA_COMPILER_VERSION} at ${CMAKE_CUDA_COMPILER}: 12.4 or newer is needed.")
endif()
# CMake 3.25.1 knows no C++20 of nvcc, and would refuse it.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)

# A toolkit keeps the runtime under lib64 or targets/*/lib, the wheels of PyPI under lib.
get_filename_component(SPILLWAY_CUDA_ROOT "${CMAKE_CUDA_COMPILER}" REALPATH)
get_filename_component(SPILLWAY_CUDA_ROOT "${SPILLWAY_CUDA_ROOT}/../.." ABSOLUTE)
find_library(SPILLWAY_CUDART libcudart_static.a
  HINTS "${SPILLWAY_CUDA_ROOT}" ${CMAKE_CUDA_HOST_IMPLICIT_LINK_DIRECTORIES}
  PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib targets/sbsa-linux/lib REQUIRED)
set(SPILLWAY_CUDA_FOUND TRUE)
message(STATUS "CUDA module: nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")
