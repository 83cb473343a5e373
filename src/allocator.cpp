#include <dmaflow/allocator.hpp>

#include <algorithm>
#include <cerrno>
#include <ranges>
#include <string>

namespace dmaflow {
namespace {

Error refused(std::string_view allocator) { return Error::os(EINVAL, "allocate", allocator); }

std::string names_of(const std::vector<Modifier>& modifiers) {
  std::string names;
  for (const Modifier modifier : modifiers) names.append(names.empty() ? "" : ", ").append(modifier.name());
  return names;
}

/// Allocates a small buffer to check that an opened allocator really works.
Result<void> try_out(Allocator& allocator) {
  const auto made = allocator.allocate({.size = {64, 64}, .format = formats::xrgb8888});
  if (!made) return std::unexpected(made.error());
  return {};
}

/// The error of the allocator tried last comes first: more users may open that one, so it is the easiest to resolve.
Error none_works(const std::vector<Error>& reasons) {
  constexpr const char* operation = "allocate";
  if (reasons.empty()) return Error::os(ENOTSUP, operation).detail("there was none to try");
  std::string text;
  for (const Error& error : reasons | std::views::reverse) text += (text.empty() ? "" : "; ") + error.message();
  return Error::os(reasons.back().code(), operation).detail("no allocator gives memory: %s", text.c_str());
}

}  // namespace

Result<std::unique_ptr<Allocator>> first_that_works(std::vector<Result<std::unique_ptr<Allocator>>> opened) {
  std::vector<Error> reasons;
  for (auto& allocator : opened) {
    const auto works = allocator ? try_out(**allocator) : Result<void>(std::unexpected(allocator.error()));
    if (works) return std::move(allocator);
    reasons.push_back(works.error());
  }
  return std::unexpected(none_works(reasons));
}

Result<void> check_request(const Request& request, std::string_view allocator) {
  constexpr std::uint32_t max_count = 64;
  const auto [width, height] = request.size;
  if (request.count < 1 || request.count > max_count) {
    return std::unexpected(
        refused(allocator).detail("%u buffers asked for; 1 to %u can be had", request.count, max_count));
  }
  if (width < 1 || height < 1 || width > max_dimension || height > max_dimension) {
    return std::unexpected(
        refused(allocator).detail("size %ux%u; each side must be 1 to %u pixels", width, height, max_dimension));
  }
  if (request.format == PixelFormat{}) return std::unexpected(refused(allocator).detail("no pixel format given"));
  if (request.modifiers.empty()) {
    return std::unexpected(
        refused(allocator).detail("no modifier given; say LINEAR, INVALID or those the devices take"));
  }
  return {};
}

Result<Layout> linear_layout(const Request& request, std::string_view allocator) {
  if (std::ranges::find(request.modifiers, Modifier::linear()) == request.modifiers.end()) {
    return std::unexpected(refused(allocator).detail("makes LINEAR buffers only; the request accepts %s",
                                                     names_of(request.modifiers).c_str()));
  }
  const FormatInfo* info = format_info(request.format);
  auto layout = info != nullptr && info->is_opaque ? Layout::opaque(request.format, request.size, request.opaque_bytes)
                                                   : Layout::linear(request.format, request.size, request.constraints);
  if (!layout) layout.error().device(allocator);
  return layout;
}

}  // namespace dmaflow
