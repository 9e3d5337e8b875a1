#include "project.h"
#include <math.h>
double two(double x) { return pow(x, 1.5) - 2; }
