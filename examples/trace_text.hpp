// The text of the kernel's tracing (Documentation/trace/ftrace.rst): a line is
//     name-123     [000] .....   45.678901: EVENT: what the event has to say
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace measure {

/// Writes it to a file of tracefs in one call. False where the kernel refuses.
bool write_file(const std::filesystem::path& path, std::string_view text);

/// Where @p text begins; null where it is not there.
const char* find(const char* begin, const char* end, std::string_view text);
/// The thread in the line: a name may hold anything, so it is read from the bracket backwards. -1 where there is none.
std::int64_t thread_of(const char* begin, const char* end);
/// The seconds before @p event, which points at ": EVENT:".
double time_of(const char* begin, const char* event);

/// A system call in words: "poll", "ioctl VIDIOC_DQBUF", "number 318". @p request is of ioctl only.
std::string call_name(std::int64_t number, std::uint64_t request);
/// What of the argument is the request: drivers ignore the upper half.
constexpr std::uint64_t request_of(std::uint64_t argument) { return argument & 0xffffffffU; }

}  // namespace measure
