# Compiler settings shared by every target.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()
# Checks stay on in every build: NDEBUG would only take assert() of the libraries.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1")

find_program(SPILLWAY_CCACHE ccache)
if(SPILLWAY_CCACHE)
  set(CMAKE_C_COMPILER_LAUNCHER ${SPILLWAY_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${SPILLWAY_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${SPILLWAY_CCACHE})
endif()

# Strict IEEE arithmetic without contraction: where a fused multiply-add is meant, the kernel says so. Placement identity
# would survive contraction, agreement between backends would not.
add_library(spillway_options INTERFACE)
target_compile_options(spillway_options INTERFACE -Wall -Wextra -Wshadow -Wno-missing-field-initializers -ffp-contract=off)
target_include_directories(spillway_options INTERFACE ${PROJECT_SOURCE_DIR})
target_link_libraries(spillway_options INTERFACE fmt::fmt)
if(SPILLWAY_SANITIZE)
  # -O2 takes twice as long to compile with the sanitizers, and the tests are not that much faster.
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-Og -g1")
  add_compile_options(-fsanitize=${SPILLWAY_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${SPILLWAY_SANITIZE})
endif()

# spillway_folder(NAME LINKS...): the static library of this folder.
function(spillway_folder name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS *.cpp)
  if(sources)
    add_library(spillway_${name} STATIC ${sources})
    target_link_libraries(spillway_${name} PUBLIC spillway_options ${ARGN})
  else()
    add_library(spillway_${name} INTERFACE)
    target_link_libraries(spillway_${name} INTERFACE spillway_options ${ARGN})
  endif()
endfunction()
