# Libraries from the distribution. Static where Debian ships the archive, so that the bundle stays small.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(URING REQUIRED IMPORTED_TARGET liburing>=2.2)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8>=10.40)  # properties like Cased
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(HWLOC REQUIRED IMPORTED_TARGET hwloc>=2.4)
pkg_check_modules(EDIT REQUIRED IMPORTED_TARGET libedit)  # line editing; readline's licence is the GPL
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
find_package(CLI11 CONFIG REQUIRED)
find_package(Eigen3 3.4 REQUIRED NO_MODULE)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(fmt REQUIRED)  # Debian has the shared library alone; header only, each file that formats compiled 3 s longer
if(NOT SPILLWAY_SANITIZE)
  find_package(mimalloc REQUIRED)
endif()
