// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_TESTS_DOC_COMMANDS_H_
#define CLOISTER_TESTS_DOC_COMMANDS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace cloister::tests {

// The shell commands of the first code block below a heading of a page in
// Markdown, each as it is printed: several lines where quotes or backslashes
// continue it, without empty lines. NotFound if there is none.
absl::StatusOr<std::vector<std::string>> DocCommands(const std::string& page,
                                                     absl::string_view heading);

// The content of every code block between a heading and the next, whatever
// language the block names. NotFound if there is none, or if the last one does
// not end.
absl::StatusOr<std::vector<std::string>> DocBlocks(const std::string& page,
                                                   absl::string_view heading);

// The commands of a block.
std::vector<std::string> SplitCommands(absl::string_view block);

}  // namespace cloister::tests

#endif  // CLOISTER_TESTS_DOC_COMMANDS_H_
