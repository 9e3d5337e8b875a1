#include "project.h"
#include <stdlib.h>
#include <string.h>
struct node *list_find(struct node **head, const char *word)
{
    for (; *head; head = &(*head)->next)
        if (strcmp((*head)->word, word) == 0) return *head;
    *head = calloc(1, sizeof **head);
    strncpy((*head)->word, word, 31);
    return *head;
}
