// SPDX-License-Identifier: Apache-2.0
//
// A kernel of a few dozen bytes that talks to its serial port (test only).
#ifndef CLOISTER_TESTS_ECHO_KERNEL_H_
#define CLOISTER_TESTS_ECHO_KERNEL_H_

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"

namespace cloister::tests {

// An ELF kernel that writes `banner` to the first serial port and then, for
// ever, polls the port and answers every byte it gets with that byte's bits and
// 0x40: "C" to Ctrl-C, "Z" to Ctrl-Z, "a" to "a". It needs nothing but port
// I/O, so it also runs where Linux does not. With `banner` empty it is silent
// until asked.
std::vector<uint8_t> MakeEchoKernel(absl::string_view banner);

}  // namespace cloister::tests

#endif  // CLOISTER_TESTS_ECHO_KERNEL_H_
