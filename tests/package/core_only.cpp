// Uses one part of the installed package, dmaflow::core, and nothing else.
#include <dmaflow/format.hpp>

int main() { return dmaflow::PixelFormat::parse("NV12") == dmaflow::formats::nv12 ? 0 : 1; }
