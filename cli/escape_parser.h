// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_ESCAPE_PARSER_H_
#define CLOISTER_CLI_ESCAPE_PARSER_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"

namespace cloister::cli {

// Finds Ctrl-A commands in what a user types. Pure; not thread-safe.
//
//   Ctrl-A x       quit                Ctrl-A h, Ctrl-A ?   help
//   Ctrl-A Ctrl-A  send one Ctrl-A     Ctrl-A b             send a break
// Ctrl-A and any other key: both are swallowed. x, h and b may be capitals. A
// command may be split between calls.
class EscapeParser {
 public:
  enum class Action { kQuit, kHelp, kBreak };

  // Bytes for the guest, then, if there is one, a command: one step of input.
  struct Step {
    std::vector<uint8_t> bytes;
    std::optional<Action> action;
  };

  static constexpr uint8_t kEscape = 0x01;  // Ctrl-A.

  // The steps in `input`, in order. What follows a quit is dropped.
  std::vector<Step> Feed(absl::Span<const uint8_t> input);

  // True after a Ctrl-A whose command is still to come.
  bool escaped() const { return escaped_; }

 private:
  bool escaped_ = false;
};

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_ESCAPE_PARSER_H_
