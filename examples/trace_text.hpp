// The text format of the kernel's tracing (Documentation/trace/ftrace.rst). A line is:
//     name-123     [000] .....   45.678901: EVENT: the event's fields
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace measure {

/// Writes the text to a file of tracefs in one call. False if the kernel refuses.
bool write_file(const std::filesystem::path& path, std::string_view text);

/// The beginning of @p text; null if it is not found.
const char* find(const char* begin, const char* end, std::string_view text);
/// The thread in the line; -1 if there is none. It is parsed backwards from the bracket, because the name before it may
/// contain anything.
std::int64_t thread_of(const char* begin, const char* end);
/// The seconds before @p event, which points at ": EVENT:".
double time_of(const char* begin, const char* event);

/// A system call as text: "poll", "ioctl VIDIOC_DQBUF", "number 318". @p request is used only for ioctl.
std::string call_name(std::int64_t number, std::uint64_t request);
/// The part of the argument that is the request: drivers ignore the upper half.
constexpr std::uint64_t request_of(std::uint64_t argument) { return argument & 0xffffffffU; }

}  // namespace measure
