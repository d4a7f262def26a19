// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_OPENAPI_H_
#define CLOISTER_API_OPENAPI_H_

#include <string>

#include "absl/strings/string_view.h"
#include "cloister/api/json.h"

namespace cloister::api {

// The schema as an OpenAPI 3.1 document. The same version, the same document.
Json OpenApiJson(absl::string_view version);

// The schema as docs/api_reference.md.
std::string ReferenceMarkdown();

}  // namespace cloister::api

#endif  // CLOISTER_API_OPENAPI_H_
