// SPDX-License-Identifier: Apache-2.0
//
// Prints docs/api_reference.md; with --openapi, the OpenAPI document.
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/string_view.h"
#include "cloister/api/json.h"
#include "cloister/api/openapi.h"

int main(int argc, char** argv) {
  const bool openapi = argc > 1 && absl::string_view(argv[1]) == "--openapi";
  const std::string text =
      openapi ? cloister::api::JsonText(cloister::api::OpenApiJson("0.1.0"),
                                        /*indented=*/true) +
                    "\n"
              : cloister::api::ReferenceMarkdown();
  std::fputs(text.c_str(), stdout);
  return 0;
}
