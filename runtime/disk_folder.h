// The folder of spilled KV: what it refuses is said with the flag that names another.
#pragma once

#include <string>

#include "kernels/check.h"

namespace spillway {

// Runs `body`; an Error(io) of it ends with the flag, where its text has `part` in it (empty: always).
template <typename Body>
auto naming_disk_folder(Body&& body, const std::string& part = "") {
  try {
    return body();
  } catch (const Error& error) {
    const std::string what = error.what();
    if (error.kind() != ErrorKind::io || what.find(part) == std::string::npos) throw;
    throw Error(ErrorKind::io, what + " (--disk-dir names another folder)");
  }
}

}  // namespace spillway
