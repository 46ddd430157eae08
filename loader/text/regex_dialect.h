// The dialect of Hugging Face's tokenizers (Oniguruma) in PCRE2's.
#pragma once

#include <string>

namespace spillway {

// The same pattern for PCRE2 with PCRE2_UCP. What differs is written out: \s is Unicode's White_Space (PCRE2's own
// counts U+180E), \h and classes inside classes mean other things there. Error(model) begins with `where` and names
// what is not known.
std::string to_pcre2(const std::string& pattern, const std::string& where);

}  // namespace spillway
